"""The teaching protocol on many problems: episodes, and arms of an evaluation.

Everything is in flight at once: no problem waits for another. Each request
has a seed made of (seed, step, problem, role, number), so a step that is done
again gives the same episodes. The frozen student's baseline does not depend
on the step and is kept for the whole run. An arm is the student alone, under
one constant teaching, or taught.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from atlas_jax.config import EpisodeConfig
from atlas_jax.data.problems import Problem
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.protocol import (
  Question,
  TeachingEpisode,
  TeachingProtocol,
  gather_all,
)
from atlas_jax.teaching.speakers import Once, Role, Said


def protocol_of(
  teacher: Role | None, student: Role, prompts: Prompts, config: EpisodeConfig
) -> TeachingProtocol:
  """The protocol between servers of the run."""
  kwargs = config.chat_template_kwargs
  return TeachingProtocol(
    replace(student, template_kwargs=kwargs),
    None if teacher is None else replace(teacher, template_kwargs=kwargs),
    prompts,
    config,
  )


async def run_episodes(
  problems: Sequence[Problem],
  *,
  teacher: Role,
  student: Role,
  prompts: Prompts,
  config: EpisodeConfig,
  group_size: int,
  baseline_samples: int,
  seed: int,
  step: int,
  baselines: dict,
  refill: int = 0,
) -> list[TeachingEpisode]:
  """Samples one episode for each problem, all at once, in their order.

  Args:
    problems: a problem may stand there twice; each gets samples of its own.
    teacher, student: who answers.
    prompts: the templates.
    config: lengths and temperatures.
    group_size: G, the teachings a problem.
    baseline_samples: k, the unaided solutions a problem.
    seed, step, refill: make the seeds of the requests; refill numbers the
      calls of one step.
    baselines: unaided solutions of earlier calls, empty at first; filled.

  Raises:
    ServerError, ServerDown: of the first request that failed; the others are
      given up.
  """
  protocol = protocol_of(teacher, student, prompts, config)

  def key(prompt, ask):
    return student.version, prompt, ask

  kept = Once(protocol.student, baselines, key)
  alone = replace(protocol, student=kept)
  parts = (seed, step, refill) if refill else (seed, step)
  seen: Counter[str] = Counter()

  def episode(problem: Problem):
    asked = Question(problem.question, problem.id, (seed,))
    sample = replace(asked, seed=parts, replicate=seen[problem.id])
    seen[problem.id] += 1
    baseline = alone.baseline(asked, baseline_samples)
    return protocol.episode(
      problem, sample, group=group_size, baseline=baseline
    )

  return await gather_all([episode(problem) for problem in problems])


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
