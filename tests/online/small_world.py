"""A world in which prompts matter, played by one stub server.

The student adds two numbers. Alone it is right where the first is even. With
a teaching it is right if the teaching says 'carry', else as it is alone. The
teacher says 'carry' only if its template asks for 'numbered steps'. The
reflection model finds that out from the verdicts, after two bad proposals.
"""

import json

from atlas_jax.online.search.config import default_config, resolve
from tests.online.small_student import student

SEED = {
  "student_baseline": "SOLVE {question}",
  "student_probe": "OUTLINE {question}",
  "teacher": "TEACH {question} PLAN {probe}",
  "student_taught": "GUIDED {question} HINT {teaching}",
}
GOOD = "TEACH {question} PLAN {probe} in numbered steps"
PROPOSALS = (
  "no fences at all",
  "```\nTEACH {question} without the plan\n```",
  "```\nTEACH {question} PLAN {probe} politely\n```",
  f"So:\n```\n{GOOD}\n```",
)


def teacher(prompt: str) -> str:
  said = "carry the one" if "numbered steps" in prompt else "think"
  return f"private <teaching>{said}</teaching>"


def reflection(prompt: str) -> str:
  """The next proposal that the prompt does not hold already."""
  if "Wrong with and without the teaching" not in prompt:
    return "nothing is wrong"
  for text in PROPOSALS:
    if text.removeprefix("So:\n") not in prompt:
      return text
  return "no more ideas"


def answer(messages) -> str:
  """What the stub server says to any of the three."""
  prompt = messages[-1]["content"]
  if prompt.startswith("TEACH"):
    return teacher(prompt)
  if prompt.startswith("You improve"):
    return reflection(prompt)
  return student(prompt)


def silent(start: str):
  """As `answer`, but without a word where a prompt begins so."""

  def say(messages) -> str:
    empty = messages[-1]["content"].startswith(start)
    return "" if empty else answer(messages)

  return say


def write_problems(path, first: int, count: int) -> str:
  lines = [
    json.dumps({"question": f"{a}+{100 + a}=?", "answer": str(100 + 2 * a)})
    for a in range(first, first + count)
  ]
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return str(path)


def tree(folder, url: str, *, train=12, validation=10, test=40):
  """The ConfigDict of a small run against the stub at `url`."""
  out = default_config()
  out.data.source = "jsonl"
  out.data.path = write_problems(folder / "train.jsonl", 1000, train)
  out.data.validation_path = write_problems(
    folder / "validation.jsonl", 2000, validation
  )
  out.data.test_path = write_problems(folder / "test.jsonl", 3000, test)
  for role in ("student", "teacher", "reflection_model"):
    out[role].kind = "url"
    out[role].url = url
    out[role].price_in = 1.0
    out[role].price_out = 2.0
    out[role].timeout_s = 60.0
    out[role].retries = 8
  for name, text in SEED.items():
    out.prompts[name] = text
  out.search.evolve = ("teacher",)
  out.search.max_rounds = 4
  out.sizes.minibatch = 4
  out.sizes.validation = validation
  out.sizes.test = test
  out.sizes.train = train
  out.choosing.fresh_samples = 1
  out.choosing.bootstrap_resamples = 500
  # Bounds near to what the stub says.
  out.episode.max_probe_tokens = 30
  out.episode.max_teaching_tokens = 30
  out.episode.max_solution_tokens = 30
  out.reflection.max_tokens = 60
  return out


def config(folder, url: str, **changes):
  """The resolved config, with changes by dotted key (a__b for a.b)."""
  out = tree(folder, url)
  flat = {key.replace("__", "."): value for key, value in changes.items()}
  out.update_from_flattened_dict(flat)
  return resolve(out)
