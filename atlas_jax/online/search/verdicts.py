"""Verdicts, kept: a run that goes on judges as it did before.

A comparison has a deadline, which a busy machine may miss. One without a
verdict is tried a second time at once; what comes then stands for the run.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping

from atlas_jax.data.problems import Problem
from atlas_jax.teaching.answers import AnswerChecker, Verdict

_TRIES = 2


class KeptChecker(AnswerChecker):
  """Judges each response once in a run; see AnswerChecker for its options."""

  def __init__(self, **options):
    super().__init__(**options)
    self._known: dict[str, Verdict] = {}
    self._asked: dict[str, Verdict] = {}

  def begin(self, verdicts: Mapping[str, dict]) -> None:
    """Begins an evaluation, with the verdicts that it committed before."""
    self._known |= {key: Verdict(**v) for key, v in verdicts.items()}
    self._asked = {}

  def verdicts(self) -> dict[str, dict]:
    """Those that the evaluation asked for, as JSON."""
    return {key: dataclasses.asdict(v) for key, v in self._asked.items()}

  def check_many(
    self, items: Iterable[tuple[Problem, str, str]]
  ) -> list[Verdict]:
    """As AnswerChecker's."""
    items = list(items)
    keys = [_key(*item) for item in items]
    left = dict(zip(keys, items, strict=True))
    left = {k: x for k, x in left.items() if k not in self._known}
    for _ in range(_TRIES):
      made = super().check_many(left.values())
      self._known |= zip(left, made, strict=True)
      left = {k: x for k, x in left.items() if self._known[k].score is None}
    self._asked |= {key: self._known[key] for key in keys}
    return [self._known[key] for key in keys]


def _key(problem: Problem, text: str, finish_reason: str) -> str:
  asked = json.dumps([problem.id, text, finish_reason])
  return hashlib.sha256(asked.encode()).hexdigest()
