"""Verdicts, kept: a run that goes on judges as it did before.

A comparison has a deadline, which a busy machine may miss. One without a
verdict is tried a second time at once; what comes then stands for the run,
unless the run stops because nothing could be judged.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from atlas_jax.data.problems import Problem
from atlas_jax.teaching.answers import AnswerChecker, Verdict

TABLE = """
CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT);
"""
_TRIES = 2


def _key(problem: Problem, text: str, finish_reason: str) -> str:
  asked = json.dumps([problem.id, text, finish_reason])
  return hashlib.sha256(asked.encode()).hexdigest()


class Verdicts:
  """Of one record; `lock` guards its `db`."""

  def __init__(self, db, lock):
    self._db, self._lock = db, lock
    # Keys without a verdict: met before the last evaluation, and by it.
    self._before: set[str] = set()
    self._met: set[str] = set()

  def read(self, keys: Iterable[str]) -> dict[str, Verdict]:
    """Those that are known."""
    query = "SELECT verdict FROM verdicts WHERE key=?"
    found = {}
    with self._lock:
      for key in keys:
        row = self._db.execute(query, (key,)).fetchone()
        if row is not None:
          found[key] = Verdict(**json.loads(row[0]))
    self._meet(found)
    return found

  def write(self, verdicts: Mapping[str, Verdict]) -> None:
    """Keeps them for good."""
    rows = [
      (key, json.dumps(dataclasses.asdict(verdict)))
      for key, verdict in verdicts.items()
    ]
    with self._lock, self._db:
      self._db.execute("BEGIN")
      self._db.executemany(
        "INSERT OR REPLACE INTO verdicts VALUES (?, ?)", rows
      )
    self._meet(verdicts)

  def _meet(self, verdicts: Mapping[str, Verdict]) -> None:
    self._met |= {k for k, v in verdicts.items() if v.score is None}

  def evaluation_begins(self) -> None:
    self._before |= self._met
    self._met.clear()

  def forget_evaluation(self) -> None:
    """What the last evaluation was the first to lack is judged again."""
    with self._lock, self._db:
      self._db.execute("BEGIN")
      self._db.executemany(
        "DELETE FROM verdicts WHERE key = ?",
        [(key,) for key in self._met - self._before],
      )


class RecordedChecker(AnswerChecker):
  """Judges each response once in a run.

  Args:
    verdicts: of the run's record.
    options: of AnswerChecker.
  """

  def __init__(self, verdicts: Verdicts, **options):
    super().__init__(**options)
    self._verdicts = verdicts

  def check_many(
    self, items: Iterable[tuple[Problem, str, str]]
  ) -> list[Verdict]:
    """As AnswerChecker's."""
    items = list(items)
    keys = [_key(*item) for item in items]
    found = self._verdicts.read(dict.fromkeys(keys))
    new = {
      key: item
      for key, item in zip(keys, items, strict=True)
      if key not in found
    }
    made: dict[str, Verdict] = {}
    for _ in range(_TRIES):
      open_ = [k for k in new if k not in made or made[k].score is None]
      made |= self._judged(open_, [new[k] for k in open_])
    self._verdicts.write(made)
    found |= made
    return [found[key] for key in keys]

  def _judged(self, keys: Sequence[str], items) -> dict[str, Verdict]:
    return dict(zip(keys, super().check_many(items), strict=True))
