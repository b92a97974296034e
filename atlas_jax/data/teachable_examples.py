"""SFT examples of the built-in task, for its student and for its teacher.

The student's make the frozen student: baseline, probe and taught answers. The
teacher's are written by a textbook: a correct private note on the student's
plan, then mostly the fix that belongs to the kind of exercise, whatever the
note says. They teach the format, and leave acting on the note to GRPO. No
example holds a question of another split than train.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from atlas_jax.config_tree import PositiveInt, Share, build
from atlas_jax.data.problems import SftExample
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
)


@dataclass(frozen=True)
class StudentParams:
  """What config.data.sft_params may hold for the student."""

  count: PositiveInt = 40_000
  trouble: Share = 0.75  # as that of the problems
  noise: Share = 0.15  # of the teachings, that say nothing useful
  knows: Share = 1.0  # below 1 the student slips more


@dataclass(frozen=True)
class TeacherParams:
  """What config.data.sft_params may hold for the teacher."""

  count: PositiveInt = 4000
  trouble: Share = 0.75
  textbook: Share = 0.65  # of the teachings, that give the fix of their kind
  keep: Share = 0.2  # that praise the plan; the others give another kind's fix

  def conflicts(self) -> Iterator[str]:
    if self.textbook + self.keep > 1:
      yield f"textbook={self.textbook} + keep={self.keep} is above 1"


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
  params: Mapping, kind_of_params: type, seed: int, example: Callable
) -> list[SftExample]:
  """`count` examples of exercises drawn with replacement."""
  p = build(kind_of_params, params, "config.data.sft_params")
  rng = random.Random(seed)
  by_trouble = by_kind_and_trouble(train_only=True)
  examples = []
  for _ in range(p.count):
    kind = rng.choice(KINDS)
    trouble = kind == CHAIN or rng.random() < p.trouble
    examples.append(example(rng, rng.choice(by_trouble[kind, trouble]), p))
  return examples


def student_examples(params: Mapping, seed: int) -> list[SftExample]:
  """Examples that make the student: baseline, probe and taught answers."""
  return _examples(params, StudentParams, seed, _student_example)


def _student_example(
  rng: random.Random, q: Exercise, p: StudentParams
) -> SftExample:
  templates = ("student_baseline", "student_probe", "student_taught")
  template = rng.choices(templates, (0.2, 0.15, 0.65))[0]
  q = dataclasses.replace(q, knows=p.knows)
  fields = {"question": q.text}
  if template == "student_baseline":
    response = baseline_response(q)
  elif template == "student_probe":
    response = probe_response(q)
  elif rng.random() < p.noise:
    fields["teaching"] = _noise(rng, q)
    response = taught_response(q, None)
  else:
    advice = rng.choice(ADVICE)
    fields["teaching"] = rng.choice(PHRASES[advice])
    response = taught_response(q, advice)
  return SftExample(template, fields, response)


def sft_examples(params: Mapping, seed: int) -> list[SftExample]:
  """Examples for the teacher: a true note, then a fix by the book."""
  return _examples(params, TeacherParams, seed, _sft_example)


def _sft_example(
  rng: random.Random, q: Exercise, p: TeacherParams
) -> SftExample:
  x = rng.random()
  if x < p.textbook:
    advice = FIX[q.kind]
  elif x < p.textbook + p.keep:
    advice = KEEP
  else:
    advice = rng.choice([a for a in FIX.values() if a != FIX[q.kind]])
  teaching = rng.choice(PHRASES[advice])
  fields = {"question": q.text, "probe": probe_response(q)}
  response = f"{note(q)} <teaching>{teaching}</teaching>"
  return SftExample("teacher", fields, response)
