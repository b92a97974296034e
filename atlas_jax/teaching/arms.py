"""The arms of an evaluation: alone, under one constant teaching, taught."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from atlas_jax.config import EpisodeConfig
from atlas_jax.data.problems import Problem
from atlas_jax.teaching.prompts import Prompts, extract_teaching
from atlas_jax.teaching.requests import (
  Requests,
  Role,
  Solution,
  gather_all,
  teaching_length,
)


@dataclass(frozen=True)
class Attempt:
  """One solution in one arm of an evaluation; no teacher: text is None."""

  problem: Problem
  sample: int
  solution: Solution
  approach: str | None = None
  teacher_text: str | None = None
  teaching: str | None = None
  status: str | None = None
  teaching_tokens: int = 0
  seconds: float = 0.0


async def run_arm(
  problems: Sequence[Problem],
  *,
  student: Role,
  prompts: Prompts,
  config: EpisodeConfig,
  samples: int,
  seed: int,
  teacher: Role | None = None,
  constant: str | None = None,
) -> list[Attempt]:
  """One arm of an evaluation: `samples` attempts a problem, problem by problem.

  With a teacher: probe, teach, guided solution. With a constant: every
  problem is solved under that same teaching. With neither: the student alone.

  Raises:
    ValueError: both a teacher and a constant are given.
    ServerError, ServerDown: as run_episodes.
  """
  if teacher is not None and constant is not None:
    raise ValueError("an arm has a teacher or a constant teaching, not both")
  runner = Requests(student, prompts, config, (seed, "arm"))
  return await gather_all(
    [
      _attempt(runner, problem, sample, teacher, constant)
      for problem in problems
      for sample in range(samples)
    ]
  )


async def _attempt(runner, problem, sample, teacher, constant) -> Attempt:
  start = time.monotonic()
  if teacher is not None:
    approach = await runner.probe(problem, sample)
    _, (completion,) = await runner.teach(teacher, problem, approach, sample, 1)
    text, status = extract_teaching(completion.text)
    solution = await runner.guided(problem, text or "", sample)
    return Attempt(
      problem,
      sample,
      solution,
      approach=approach,
      teacher_text=completion.text,
      teaching=text,
      status=status,
      teaching_tokens=teaching_length(teacher, text),
      seconds=time.monotonic() - start,
    )
  if constant is not None:
    solution = await runner.guided(problem, constant, sample)
    tokens = len(runner.student.chat.encode(constant))
    return Attempt(
      problem,
      sample,
      solution,
      teaching=constant,
      teaching_tokens=tokens,
      seconds=time.monotonic() - start,
    )
  (solution,) = await runner.solve(
    "student_baseline",
    {"question": problem.question},
    (*runner.seed, problem.id, "alone", sample),
  )
  return Attempt(problem, sample, solution, seconds=time.monotonic() - start)
