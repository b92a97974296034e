"""The teaching episode: baseline and probe, teach, guided solution.

    question -> student: k unaided solutions (baseline)   \\ at the same time
             -> student: its approach in few words (probe) /
    question + approach -> teacher: G teachings, one request
    question + each teaching -> student: one guided solution each

Everything is in flight at once: no problem waits for another. Each request
has a seed made of (seed, step, problem, kind, number), so a step that is done
again gives the same episodes. The frozen student's baseline does not depend
on the step and is kept for the whole run.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from atlas_jax.config import EpisodeConfig
from atlas_jax.data.problems import Problem
from atlas_jax.serving.client import Completion
from atlas_jax.teaching.prompts import Prompts, extract_teaching
from atlas_jax.teaching.requests import (
  Requests,
  Role,
  Solution,
  gather_all,
  teaching_length,
)


@dataclass(frozen=True)
class Teaching:
  """One sampled teaching and the solution that it led to.

  completion is exactly what the teacher sampled; text is what the student
  got to read, None when the tags were wrong (status says how; the student
  then got an empty teaching). tokens counts text alone.
  """

  completion: Completion
  text: str | None
  status: str
  tokens: int
  guided: Solution


@dataclass(frozen=True)
class TeachingEpisode:
  """All that was sampled for one problem. seconds: wall time by stage."""

  problem: Problem
  baseline: tuple[Solution, ...]
  approach: str
  teacher_prompt_ids: tuple[int, ...]
  teachings: tuple[Teaching, ...]
  seconds: Mapping[str, float]


@dataclass
class BaselineCache:
  """Unaided solutions by (question prompt, student, way of sampling)."""

  solutions: dict[tuple, tuple[Solution, ...]] = field(default_factory=dict)


async def run_episodes(
  problems: Sequence[Problem],
  *,
  teacher: Role,
  student: Role,
  prompts: Prompts,
  config: EpisodeConfig,
  group_size: int,
  seed: int,
  step: int,
  baselines: BaselineCache,
  refill: int = 0,
) -> list[TeachingEpisode]:
  """Samples one episode for each problem, all at once, in their order.

  Args:
    problems: a problem may stand there twice; each gets samples of its own.
    teacher, student: who answers.
    prompts: the templates.
    config: lengths, temperatures, k.
    group_size: G, the teachings a problem.
    seed, step, refill: make the seeds of the requests; refill numbers the
      calls of one step.
    baselines: filled and used.

  Raises:
    ValueError: G > 1 with a teacher temperature of 0.
    ServerError, ServerDown: of the first request that failed; the others are
      given up.
  """
  if group_size > 1 and config.teacher_temperature == 0:
    raise ValueError(
      f"{group_size} teachings at temperature 0 would be equal; set"
      " config.episode.teacher_temperature above 0"
    )
  parts = (seed, step, refill) if refill else (seed, step)
  runner = Requests(student, prompts, config, parts)
  seen: Counter[str] = Counter()
  tasks = []
  shared: dict[tuple, asyncio.Task] = {}
  for problem in problems:
    repeat = seen[problem.id]
    seen[problem.id] += 1
    tasks.append(
      _episode(
        runner, teacher, problem, repeat, group_size, seed, baselines, shared
      )
    )
  return await gather_all(tasks)


class _Clock:
  """Wall seconds of the stages that are run through it."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  async def time(self, stage: str, function, *args):
    start = time.monotonic()
    result = await function(*args)
    self.seconds[stage] = time.monotonic() - start
    return result


async def _baseline(runner, problem, seed, baselines, shared):
  config, student = runner.config, runner.student
  fields = {"question": problem.question}
  # At temperature 0 all k samples would be the same one.
  k = config.baseline_samples if config.student_temperature > 0 else 1
  key = (
    runner.prompts.render("student_baseline", fields),
    student.version,
    (k, config.student_temperature, config.max_solution_tokens, seed),
  )
  if key not in baselines.solutions:
    if key not in shared:
      work = runner.solve(
        "student_baseline", fields, (seed, problem.id, "baseline"), k
      )
      shared[key] = asyncio.ensure_future(work)
    baselines.solutions[key] = tuple(await shared[key])
  return baselines.solutions[key]


async def _episode(
  runner, teacher, problem, repeat, group_size, seed, baselines, shared
) -> TeachingEpisode:
  clock = _Clock()
  baseline = asyncio.ensure_future(
    clock.time("baseline", _baseline, runner, problem, seed, baselines, shared)
  )
  try:
    approach = await clock.time("probe", runner.probe, problem, repeat)
    ids, completions = await clock.time(
      "teach", runner.teach, teacher, problem, approach, repeat, group_size
    )
    read = [extract_teaching(c.text) for c in completions]
    guided = await clock.time(
      "guided",
      gather_all,
      [
        runner.guided(problem, text or "", repeat, i)
        for i, (text, _) in enumerate(read)
      ],
    )
    return TeachingEpisode(
      problem=problem,
      baseline=await baseline,
      approach=approach,
      teacher_prompt_ids=ids,
      teachings=tuple(
        Teaching(c, text, status, teaching_length(teacher, text), solution)
        for c, (text, status), solution in zip(
          completions, read, guided, strict=True
        )
      ),
      seconds=clock.seconds,
    )
  finally:
    baseline.cancel()
    await asyncio.gather(baseline, return_exceptions=True)
