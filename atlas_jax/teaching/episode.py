"""The episodes of a training step: the teaching protocol on many problems.

Everything is in flight at once: no problem waits for another. Each request
has a seed made of (seed, step, problem, role, number), so a step that is done
again gives the same episodes. The frozen student's baseline does not depend
on the step and is kept for the whole run.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from atlas_jax.config import EpisodeConfig
from atlas_jax.data.problems import Problem
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.protocol import (
  Question,
  TeachingEpisode,
  TeachingProtocol,
  gather_all,
)
from atlas_jax.teaching.speakers import Once, Role


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
