"""Problems of reasoning-gym in a mixture, and examples of teaching them.

  python -m configs.gym_problems data/gym   # atlas_jax.configs.gym_problems

writes train.jsonl, validation.jsonl and test.jsonl (for config.data.source
jsonl) and sft.jsonl (for sft_source arc_sft, hints of gym_hints.py), always the
same:

  leg_counting    2 or 3 kinds of animals, 1 to 9 of each
  lcm             two numbers from 3 to 20
  group_anagrams  two groups of two words

No facts of a test problem are in another split: two numbers in the other order,
the same animals, or the same four words are the same facts. (One of the two
groups of a test problem may be in another split beside another group.)
"""

import json
import pathlib
import random
import re
import sys
from collections.abc import Iterator

from atlas_jax import directory
from atlas_jax.config import DataConfig
from atlas_jax.data.problems import SPLITS, split_of
from atlas_jax.data.tables import json_lines
from atlas_jax.teaching.answers import extract
from atlas_jax.teaching.equality import exact_equal
from atlas_jax.teaching.prompts import NO_PROBE

try:
  from configs.gym_hints import WEIGHTS, hints
except ImportError:  # installed
  from atlas_jax.configs.gym_hints import WEIGHTS, hints

LEGS = {"min_animals": 2, "max_animals": 3, "max_instances": 9}
LCM = {"min_value": 3, "max_value": 20}
WORDS = {
  f"{end}_{what}": 2
  for end in ("min", "max")
  for what in ("anagram_groups", "words_per_group")
}
TASKS = {"leg_counting": LEGS, "lcm": LCM, "group_anagrams": WORDS}
# The most problems of a task in train, validation and test.
SIZES = {
  "leg_counting": (1200, 32, 200),
  "lcm": (240, 16, 70),
  "group_anagrams": (400, 16, 100),
}
SFT_SIZES = {"leg_counting": 3600, "lcm": 1200, "group_anagrams": 700}
# Short: on two cores every token of a prompt costs.
PROMPTS = {
  "student_baseline": (
    "{question}\nGive the answer inside <solution></solution> tags."
  ),
  "student_probe": "{question}\nHow would you begin?",
  "teacher": (
    "{question}\nThe student's plan: {probe}\nWrite a hint for the student"
    " inside <teaching></teaching> tags."
  ),
  # Of six wordings the best for a program's hints, on training problems.
  "student_taught": (
    "{question}\nGive the answer inside <solution></solution> tags.\nHint:"
    " {teaching}"
  ),
}


def rows(task: str) -> Iterator[tuple[str, dict]]:
  """(its split, a problem), each question once."""
  import reasoning_gym

  seen = set()
  data = reasoning_gym.create_dataset(task, size=5000, seed=1, **TASKS[task])
  for entry in data:
    known = entry["metadata"]
    facts = known.get("animals") or known.get("numbers") or known["words"]
    in_order = sorted(facts.items() if task == "leg_counting" else facts)
    question = entry["question"].strip()
    if question not in seen:
      seen.add(question)
      # Two numbers in the other order are the same facts.
      split = split_of(f"{task} {in_order}", (0.7, 0.08, 0.22))
      row = {"question": question, "answer": entry["answer"]}
      yield split, row | {"task": task, "facts": facts}


def of_task(config: DataConfig) -> Iterator[dict]:
  """config.data.source: the problems of one task, params `task`, of a file."""
  for _, row in json_lines(config.path):
    if row["task"] == config.params["task"]:
      yield row


def right(question: str, gold: str, response: str) -> float:
  """config.data.verifier: groups of words in any order, else a number.

  Of a working inside the tags (24 + 70 = 94) it is what follows the last "=".
  """
  answer, _ = extract(response)
  if answer is None:
    return 0.0
  if gold.startswith("[["):
    return float(_groups(answer) == _groups(gold))
  result = answer.rpartition("=")[2]
  return float(exact_equal(gold, result.strip()) is True)


def _groups(text: str) -> list[list[str]]:
  groups = re.findall(r"\[([^\[\]]*)\]", text)
  return sorted(sorted(re.findall(r"[a-z]+", g)) for g in groups)


def write(folder: pathlib.Path) -> None:
  """Writes the four files."""
  rng = random.Random(0)
  splits = {split: [] for split in SPLITS}
  examples = []
  for task in TASKS:
    mine = {split: [] for split in SPLITS}
    for split, row in rows(task):
      mine[split].append(row)
    for split, most in zip(SPLITS, SIZES[task], strict=True):
      splits[split] += mine[split][:most]
    weights = WEIGHTS[task] + (1 - sum(WEIGHTS[task]),)
    for row in rng.choices(mine["train"], k=SFT_SIZES[task]):
      examples.append(
        {
          "problem_text": row["question"],
          "student_approach": NO_PROBE,
          "teacher_diagnosis": task,
          "teacher_teaching": rng.choices(hints(row), weights)[0],
        }
      )
  for name, lines in (*splits.items(), ("sft", examples)):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    directory.write_whole(folder / f"{name}.jsonl", text)


if __name__ == "__main__":
  write(pathlib.Path(sys.argv[1]))
