"""The arms of an evaluation: alone, under one constant teaching, taught."""

from collections.abc import Sequence
from dataclasses import dataclass

from atlas_jax.config import EpisodeConfig
from atlas_jax.data.problems import Problem
from atlas_jax.teaching.episode import protocol_of
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.protocol import Question, TeachingProtocol, gather_all
from atlas_jax.teaching.speakers import Role, Said


@dataclass(frozen=True)
class Attempt:
  """One solution in one arm of an evaluation; no teacher: text is None."""

  problem: Problem
  sample: int
  solution: Said
  probe: str | None = None
  teacher_text: str | None = None
  teaching: str | None = None
  status: str | None = None
  teaching_tokens: int = 0
  weight_version: str | int | None = None  # of the teacher
  seconds: float = 0.0  # of its requests


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

  With a teacher: probe, teaching, taught solution. With a constant: every
  problem is solved under that same teaching. With neither: the student alone.

  Raises:
    ServerError, ServerDown: as run_episodes.
  """
  protocol = protocol_of(teacher, student, prompts, config)
  return await gather_all(
    [
      _attempt(protocol, problem, sample, (seed, "arm"), constant)
      for problem in problems
      for sample in range(samples)
    ]
  )


async def _attempt(
  protocol: TeachingProtocol, problem, sample, seed, constant
) -> Attempt:
  question = Question(problem.question, problem.id, seed, sample)
  if protocol.teacher is not None:
    said = await protocol.probe(question)
    probe, (one,) = await protocol.lesson(question, said)
    return Attempt(
      problem,
      sample,
      one.taught,
      probe=probe,
      teacher_text=one.said.text,
      teaching=one.text,
      status=one.status,
      teaching_tokens=one.tokens,
      weight_version=one.said.sample and one.said.sample.weight_version,
      seconds=said.seconds + one.said.seconds + one.taught.seconds,
    )
  if constant is None:
    (solution,) = await protocol.baseline(question)
    return Attempt(problem, sample, solution, seconds=solution.seconds)
  solution = await protocol.taught(question, constant)
  return Attempt(
    problem,
    sample,
    solution,
    teaching=constant,
    teaching_tokens=len(protocol.student.tokenizer.encode(constant)),
    seconds=solution.seconds,
  )
