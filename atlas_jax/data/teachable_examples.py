"""SFT examples of the built-in task, for its student and for its teacher.

The student's make the frozen student: baseline, probe and taught answers. The
teacher's are written by a textbook: a correct private note on the student's
plan, then mostly the fix that belongs to the kind of exercise, whatever the
note says. They teach the format, and leave acting on the note to GRPO. No
example holds a question of another split than train.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping

from atlas_jax.data.problems import DataError, SftExample
from atlas_jax.data.teachable import (
  ADVICE,
  CHAIN,
  FIX,
  KEEP,
  KINDS,
  PHRASES,
  Exercise,
  baseline_response,
  by_kind_and_trouble,
  probe_response,
  taught_response,
  with_defaults,
)

STUDENT_DEFAULTS = {
  "count": 40_000,
  "trouble": 0.75,
  "noise": 0.15,
  "knows": 1.0,
}
SFT_DEFAULTS = {"count": 4000, "trouble": 0.75, "textbook": 0.65, "keep": 0.2}


def note(q: Exercise) -> str:
  """The textbook teacher's private note: the end of the student's plan."""
  return "The plan: " + probe_response(q).split(", ")[-1]


def _noise(rng: random.Random, q: Exercise) -> str:
  """Teaching without advice that the student could apply."""
  return rng.choice(
    (
      "",
      "Think.",
      "Please solve it.",
      "What do you think?",
      q.text,
      probe_response(q),
      note(q),
      f"{rng.randrange(10, 199)}",
      f"The answer is {rng.randrange(10, 199)}.",
    )
  )


def _examples(
  params: Mapping,
  defaults: Mapping,
  seed: int,
  example: Callable[[random.Random, Exercise, dict], SftExample],
) -> list[SftExample]:
  """`count` examples of exercises drawn with replacement."""
  p = with_defaults(params, defaults, "sft_params")
  rng = random.Random(seed)
  by_trouble = by_kind_and_trouble(train_only=True)
  examples = []
  for _ in range(p["count"]):
    kind = rng.choice(KINDS)
    trouble = kind == CHAIN or rng.random() < p["trouble"]
    examples.append(example(rng, rng.choice(by_trouble[kind, trouble]), p))
  return examples


def student_examples(params: Mapping, seed: int) -> list[SftExample]:
  """Examples that make the student: baseline, probe and taught answers.

  Args:
    params: `count`, `trouble` (as in `problems`), `noise`: the share of
      teachings that say nothing useful, and `knows`: below 1 it slips more.
    seed: of every choice.
  """
  return _examples(params, STUDENT_DEFAULTS, seed, _student_example)


def _student_example(rng: random.Random, q: Exercise, p: dict) -> SftExample:
  templates = ("student_baseline", "student_probe", "student_taught")
  template = rng.choices(templates, (0.2, 0.15, 0.65))[0]
  q = dataclasses.replace(q, knows=p["knows"])
  fields = {"question": q.text}
  if template == "student_baseline":
    response = baseline_response(q)
  elif template == "student_probe":
    response = probe_response(q)
  elif rng.random() < p["noise"]:
    fields["teaching"] = _noise(rng, q)
    response = taught_response(q, None)
  else:
    advice = rng.choice(ADVICE)
    fields["teaching"] = rng.choice(PHRASES[advice])
    response = taught_response(q, advice)
  return SftExample(template, fields, response)


def sft_examples(params: Mapping, seed: int) -> list[SftExample]:
  """Examples for the teacher: a true note, then a fix by the book.

  Args:
    params: `count`, `trouble`, `textbook`: the share of teachings that give
      the fix of that kind of exercise, and `keep`: the share that praise the
      plan. The others give a fix of another kind.
    seed: of every choice.
  """
  return _examples(params, SFT_DEFAULTS, seed, _sft_example)


def _sft_example(rng: random.Random, q: Exercise, p: dict) -> SftExample:
  if p["textbook"] + p["keep"] > 1:
    raise DataError("config.data.sft_params: textbook + keep is above 1")
  x = rng.random()
  if x < p["textbook"]:
    advice = FIX[q.kind]
  elif x < p["textbook"] + p["keep"]:
    advice = KEEP
  else:
    advice = rng.choice([a for a in FIX.values() if a != FIX[q.kind]])
  teaching = rng.choice(PHRASES[advice])
  fields = {"question": q.text, "probe": probe_response(q)}
  response = f"{note(q)} <teaching>{teaching}</teaching>"
  return SftExample("teacher", fields, response)
