"""Training dialogues of the built-in task: its student's, and a textbook's.

The student's make the frozen student: alone, outlining, and taught. The
teacher's are written by a textbook: a correct private note on the student's
plan, then mostly the fix that belongs to the kind of question, whatever the
note says. They teach the format, and leave the acting on the note to
reinforcement. No dialogue holds a question of another split than train.
"""

import random

from atlas_jax.data.problems import SftExample
from atlas_jax.data.teachable import (
  ADVICE,
  CHAIN,
  FIX,
  KEEP,
  KINDS,
  PHRASES,
  Question,
  TeachableError,
  baseline_response,
  checked_params,
  outline,
  pools,
  taught_response,
)

STUDENT_DEFAULTS = {"count": 40_000, "trouble": 0.75, "noise": 0.15}
SFT_DEFAULTS = {"count": 4000, "trouble": 0.75, "textbook": 0.65, "keep": 0.2}


def note(q: Question) -> str:
  """The textbook teacher's private note: what counts of the outline."""
  return "The plan: " + outline(q).split(", ")[-1]


def _noise(rng: random.Random, q: Question) -> str:
  """Teaching that says nothing the student could apply."""
  return rng.choice(
    (
      "",
      "Think.",
      "Please solve it.",
      "What do you think?",
      q.text,
      outline(q),
      note(q),
      f"{rng.randrange(10, 199)}",
      f"The answer is {rng.randrange(10, 199)}.",
    )
  )


def _draw(rng: random.Random, by_trouble: dict, trouble: float) -> Question:
  """A question from {(kind, trouble): questions}, with replacement."""
  kind = rng.choice(KINDS)
  wanted = kind == CHAIN or rng.random() < trouble
  return rng.choice(by_trouble[kind, wanted])


def student_examples(params: dict, seed: int) -> list[SftExample]:
  """Dialogues that make the student: alone, outlining, and taught.

  Args:
    params: `count`, `trouble` (as in `problems`) and `noise`: the share of
      teachings that say nothing useful.
    seed: of every choice.
  """
  p = checked_params(params, STUDENT_DEFAULTS, "teachable student")
  rng = random.Random(seed)
  by_trouble = pools(train_only=True)
  out = []
  for _ in range(p["count"]):
    q = _draw(rng, by_trouble, p["trouble"])
    form = rng.choices(
      ("student_baseline", "student_probe", "student_taught"),
      (0.2, 0.15, 0.65),
    )[0]
    fields = {"question": q.text}
    if form == "student_baseline":
      response = baseline_response(q)
    elif form == "student_probe":
      response = outline(q)
    elif rng.random() < p["noise"]:
      fields["teaching"] = _noise(rng, q)
      response = taught_response(q, None)
    else:
      advice = rng.choice(ADVICE)
      fields["teaching"] = rng.choice(PHRASES[advice])
      response = taught_response(q, advice)
    out.append(SftExample(form, fields, response))
  return out


def sft_examples(params: dict, seed: int) -> list[SftExample]:
  """The textbook teacher's examples: a true note, then a fix by the book.

  Args:
    params: `count`, `trouble`, `textbook`: the share of teachings that give
      the fix of that kind of question, and `keep`: the share that praise the
      plan. The others give a fix of another kind.
    seed: of every choice.
  """
  p = checked_params(params, SFT_DEFAULTS, "teachable sft")
  if p["textbook"] + p["keep"] > 1:
    raise TeachableError("teachable sft: textbook + keep is above 1")
  rng = random.Random(seed)
  by_trouble = pools(train_only=True)
  out = []
  for _ in range(p["count"]):
    q = _draw(rng, by_trouble, p["trouble"])
    x = rng.random()
    if x < p["textbook"]:
      advice = FIX[q.kind]
    elif x < p["textbook"] + p["keep"]:
      advice = KEEP
    else:
      advice = rng.choice([a for a in FIX.values() if a != FIX[q.kind]])
    teaching = rng.choice(PHRASES[advice])
    out.append(
      SftExample(
        "teacher",
        {"question": q.text, "probe": outline(q)},
        f"{note(q)} <teaching>{teaching}</teaching>",
      )
    )
  return out
