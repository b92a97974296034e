"""A warning where a role says the same to every question.

An agent that is out of order may answer so, with words that no rule knows.
"""

import collections
import logging
from collections.abc import Iterable

from atlas_jax.teaching.protocol import TeachingEpisode

_ALIKE = 4  # questions whose answers are all the same: too many
log = logging.getLogger(__name__)


def warn(episodes: Iterable[TeachingEpisode]) -> None:
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
