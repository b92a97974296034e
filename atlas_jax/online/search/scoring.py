"""What a rollout is worth: its verdicts, and the score that they make.

An agent that is out of order may say the same to every question, in words that
no rule knows: a line in the log says so.
"""

import collections
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from atlas_jax.config import DataConfig, RewardConfig
from atlas_jax.data.problems import Problem
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search.config import ObjectivesConfig
from atlas_jax.online.search.files import key_of
from atlas_jax.teaching.answers import AnswerChecker, Verdict
from atlas_jax.teaching.protocol import TeachingEpisode
from atlas_jax.teaching.rewards import ScoredEpisode

# Efficiency in full: the objectives weigh it.
REWARD = RewardConfig(efficiency_weight=1.0)
_ALIKE = 4  # questions whose answers are all the same: too many
log = logging.getLogger(__name__)


class KeptChecker(AnswerChecker):
  """Judges each response once in a run, unless there was no verdict."""

  def __init__(self, record: Record, data: DataConfig):
    super().__init__(data=data)
    self._record = record

  def check(self, problem: Problem, text: str, finish_reason: str) -> Verdict:
    """As AnswerChecker's."""
    key = key_of("verdict", problem.id, text, finish_reason)
    known = self._record.read(key)
    if known is not None:
      return Verdict(**known)
    verdict = super().check(problem, text, finish_reason)
    if verdict.score is not None:
      self._record.commit(key, asdict(verdict))
    return verdict


def objectives_of(scored: ScoredEpisode) -> dict[str, float] | None:
  """What the search may look at, each in [0, 1]; None without a verdict.

  accuracy         the taught solution is right
  non_degradation  it is not worse than the unaided one
  efficiency       the share of the unaided response's tokens that a right
                   taught one saved
  completion       it states an answer
  """
  (teaching,) = scored.teachings
  verdict, reward = teaching.verdict, teaching.reward
  if reward.total is None:
    return None
  return {
    "accuracy": verdict.score,
    "non_degradation": float(verdict.score >= scored.pass_rate),
    "efficiency": reward.parts["efficiency"],
    "completion": float(verdict.completed),
  }


def score_of(
  objectives: Mapping[str, float], leaked: bool, config: ObjectivesConfig
) -> float:
  """The weighted mean of the objectives, less for a teaching that leaks."""
  weights = {name: getattr(config, name) for name in objectives}
  mean = sum(weights[n] * value for n, value in objectives.items())
  mean /= sum(weights.values())
  return max(0.0, mean - config.leak_penalty * leaked)


def warn_of_equals(episodes: Iterable[TeachingEpisode]) -> None:
  """A line for each role that answers different questions with one text."""
  texts = collections.defaultdict(dict)
  for episode in episodes:
    (alone,), (teaching,) = episode.baseline, episode.teachings
    for role, one in (
      ("student_baseline", alone),
      ("teacher", teaching.said),
      ("student_taught", teaching.taught),
    ):
      if one.text and one.finish_reason == "stop":
        texts[role][episode.problem.question] = one.text
  for role, by_question in texts.items():
    if len(by_question) >= _ALIKE and len(set(by_question.values())) == 1:
      text = next(iter(by_question.values()))
      log.warning(
        "all answers of %s to %d questions are the same, %.80r: if that is a"
        " failure, the agent's failure_regex can say so",
        *(role, len(by_question), text),
      )
