"""An arm: who is taught by whom, in which words, and how that is sampled.

An evaluation has many arms over the same problems; a GRPO phase has two on
validation problems while it trains.
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from atlas_jax import multihost, progress
from atlas_jax.config import RunConfig
from atlas_jax.confined import NoAnswer
from atlas_jax.data.problems import Problem
from atlas_jax.phases.servers import Servers, Student
from atlas_jax.phases.teacher import Teacher
from atlas_jax.reports import reading
from atlas_jax.teaching import statistics
from atlas_jax.teaching.answers import AnswerChecker, Verdict
from atlas_jax.teaching.arms import Attempt, run_arm
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.statistics import Outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
  """Who is taught by whom, in which words.

  Attributes:
    key: names its file in report/arms.
    title: names it in the table and in the episodes.
    prompts: the templates.
    teacher: who teaches; None: nobody.
    constant: the teaching of all problems, in a teacher's place.
    student: who is taught; None: the run's student.
  """

  key: str
  title: str
  prompts: Prompts
  teacher: Teacher | None = None
  constant: str | None = None
  student: Student | None = None

  def of(self, number: int, student: Student) -> "Arm":
    """The same arm of another student, the config's `number`."""
    return dataclasses.replace(
      self,
      key=f"{self.key}_student_{number}",
      title=reading.titled(self.title, student.name),
      student=student,
    )


@dataclass(frozen=True)
class Sampled:
  """The attempts of an arm with what counts of each."""

  attempts: list[Attempt]
  outcomes: list[Outcome]
  verdicts: list[Verdict]
  seconds: float


def sample(
  arm: Arm,
  problems: Sequence[Problem],
  *,
  config: RunConfig,
  servers: Servers,
  checker: AnswerChecker,
  samples: int,
  hold: bool = False,
) -> Sampled | None:
  """Samples and judges an arm; None on all processes but the lead.

  With `hold` a signal waits for its end. A collective.

  Raises:
    NoAnswer: there is no verdict on any response.
    ServerError, ServerDown, DisagreementError: of the servers.
  """
  episode = dataclasses.replace(
    config.episode,
    teacher_temperature=config.evaluate.teacher_temperature,
    student_temperature=config.evaluate.student_temperature,
  )

  def work() -> Sampled:
    begin = time.perf_counter()
    teacher, student = servers.roles()
    with progress.shown(progress.timed(arm.title)):
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
    outcomes, verdicts = statistics.judge(attempts, checker)
    if all(verdict.score is None for verdict in verdicts):
      raise NoAnswer(
        f"{arm.title}: no verdict on any of {len(verdicts)} responses; the last"
        f" failure: {checker.failure}"
      )
    log.info("%s: %d attempts in %.1f s", arm.title, len(attempts), seconds)
    return Sampled(attempts, outcomes, verdicts, seconds)

  with servers.holding(arm.teacher, arm.student):
    return servers.call(work, hold)


class Validation:
  """How the teacher does on validation problems while it trains.

  Args:
    config: of the run; one solution a problem, else sampled as an evaluation.
    teacher: that is trained.
    servers, prompts, problems, checker: that an arm needs.
  """

  def __init__(
    self,
    config: RunConfig,
    teacher: Teacher,
    *,
    servers: Servers,
    prompts: Prompts,
    problems: Sequence[Problem],
    checker: AnswerChecker,
  ):
    self._given = {"config": config, "servers": servers, "checker": checker}
    self._problems = problems
    self._alone = Arm("alone", "validation, student alone", prompts)
    self._taught = Arm("taught", "validation, taught", prompts, teacher)
    self._accuracy_alone: float | None = None  # the student stays as it is

  def numbers(self) -> dict[str, float]:
    """Of the teacher as it is published, for metrics. A collective."""
    begin = time.perf_counter()
    if self._accuracy_alone is None:
      self._accuracy_alone = self._result(self._alone)["accuracy"]
    taught = self._result(self._taught)
    return {
      "validation_accuracy_alone": self._accuracy_alone,
      "validation_accuracy_taught": taught["accuracy"],
      "validation_low": taught["accuracy_low"],
      "validation_high": taught["accuracy_high"],
      "validation_unjudged": taught["unjudged"],
      "validation_seconds": time.perf_counter() - begin,
    }

  def _result(self, arm: Arm) -> dict:
    found = sample(arm, self._problems, samples=1, hold=True, **self._given)
    config = self._given["config"]

    def result() -> dict:
      return dataclasses.asdict(
        statistics.arm_result(
          arm.title,
          found.outcomes,
          alone=None,
          resamples=config.evaluate.bootstrap_resamples,
          seed=config.seed,
        )
      )

    return multihost.call_on_lead(result, hold=True)
