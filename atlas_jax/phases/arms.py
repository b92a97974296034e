"""An arm: who is taught by whom, in which words, and how that is sampled.

An evaluation has many arms over the same problems; a GRPO phase has two over
validation problems while it trains.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from atlas_jax import multihost, progress
from atlas_jax.config import RunConfig
from atlas_jax.confined import Unanswered
from atlas_jax.data.problems import Problem
from atlas_jax.phases.servers import Servers, Student
from atlas_jax.phases.teacher import Teacher
from atlas_jax.reports import reading
from atlas_jax.teaching import statistics, transcripts
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.episode import run_arm
from atlas_jax.teaching.prompts import Prompts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
  """Who is taught by whom, in which words.

  Attributes:
    title: names it in the table of its student.
    prompts: the templates.
    teacher: who teaches; None: nobody.
    constant: the teaching of all problems, in a teacher's place.
    student: who is taught; None: the run's student.
    evaluation: the evaluation whose teacher this is; None: the arm is the same
      in all of them.
  """

  title: str
  prompts: Prompts
  teacher: Teacher | None = None
  constant: str | None = None
  student: Student | None = None
  evaluation: str | None = None

  @property
  def student_name(self) -> str | None:
    return self.student and self.student.name

  @property
  def name(self) -> str:
    """Names the arm in the episodes, where those of all students are."""
    return reading.titled(self.title, self.student_name)


def sample(
  arm: Arm,
  problems: Sequence[Problem],
  *,
  config: RunConfig,
  servers: Servers,
  checker: AnswerChecker,
  samples: int,
  hold: bool = False,
) -> list[dict] | None:
  """Samples and judges an arm: a line of the episodes for each attempt.

  None on all processes but the lead.

  With `hold` a signal waits for its end. A collective.

  Raises:
    Unanswered: there is no verdict on any response.
    ServerError, ServerDown, DisagreementError: of the servers.
  """
  episode = replace(
    config.episode,
    teacher_temperature=config.evaluate.teacher_temperature,
    student_temperature=config.evaluate.student_temperature,
  )

  def work() -> list[dict]:
    begin = time.perf_counter()
    teacher, student = servers.roles()
    with progress.shown(progress.timed(arm.name)):
      attempts = servers.ask(
        run_arm(
          problems,
          student=student,
          prompts=arm.prompts,
          config=episode,
          samples=samples,
          seed=config.seed,
          teacher=None if arm.teacher is None else teacher,
          constant=arm.constant,
        )
      )
    seconds = time.perf_counter() - begin
    verdicts = checker.check_many(
      (a.problem, a.solution.text, a.solution.finish_reason) for a in attempts
    )
    if all(verdict.score is None for verdict in verdicts):
      raise Unanswered(
        f"{arm.name}: no verdict on any of {len(verdicts)} responses; the last"
        f" failure: {checker.failure}"
      )
    log.info("%s: %d attempts in %.1f s", arm.name, len(attempts), seconds)
    return [
      transcripts.attempt_json(arm.name, *judged)
      for judged in zip(attempts, verdicts, strict=True)
    ]

  with servers.serving(arm.teacher, arm.student):
    return servers.call(work, hold)


def validation(
  config: RunConfig, teacher: Teacher, prompts: Prompts, **given
) -> Callable[[], dict[str, float]]:
  """Gives the metrics of the published teacher on validation problems.

  One solution a problem, else sampled as an evaluation; `given` is what
  `sample` takes besides. A collective, each time that it is called.
  """

  def accuracy(arm: Arm) -> tuple[float, float, float]:
    lines = sample(arm, config=config, samples=1, hold=True, **given)

    def interval():
      found = statistics.accuracy_interval(
        statistics.scores(lines),
        resamples=config.evaluate.bootstrap_resamples,
        seed=config.seed,
      )
      return found.estimate, found.low, found.high

    return multihost.broadcast_json(interval() if lines else None)

  @functools.cache  # the student stays as it is
  def alone() -> float:
    return accuracy(Arm("validation, student alone", prompts))[0]

  def numbers() -> dict[str, float]:
    begin, before = time.perf_counter(), alone()
    taught = accuracy(Arm("validation, taught", prompts, teacher))
    return {
      "validation_accuracy_alone": before,
      "validation_accuracy_taught": taught[0],
      "validation_taught_low": taught[1],
      "validation_taught_high": taught[2],
      "validation_seconds": time.perf_counter() - begin,
    }

  return numbers
