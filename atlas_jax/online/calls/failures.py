"""Failures that a run stops for: the same command tries them again.

A failure that a run went on with is history: what came later depends on it.
Where the run stops because of failures, those of the evaluation that failed,
or of the reflection model since its last answer, are no outcomes of their
asks any more. An empty answer of the reflection model is one of these.
"""

from atlas_jax.online.calls.record_tables import ANSWERED, GOOD

_REFLECTION = "reflection"


class Failures:
  """Of one record, as this process met them; `lock` guards its `db`."""

  def __init__(self, db, lock):
    self._db, self._lock = db, lock
    self._evaluation: list[int] = []  # rows
    self._reflection: list[int] = []

  def met(self, row: int, attempt) -> None:
    """An attempt was settled, or handed out by the record."""
    if not attempt.final:
      return
    if attempt.role != _REFLECTION:
      if attempt.status not in ANSWERED:
        self._evaluation.append(row)
    elif attempt.status in GOOD:
      self._reflection.clear()
    else:
      self._reflection.append(row)

  def evaluation_begins(self) -> None:
    self._evaluation.clear()

  def forget_evaluation(self) -> None:
    """Those since the last evaluation began are tried again."""
    self._forget(self._evaluation)

  def forget_reflection(self) -> None:
    """Those since the last text of the reflection model are tried again."""
    self._forget(self._reflection)

  def _forget(self, rows: list[int]) -> None:
    with self._lock, self._db:
      self._db.execute("BEGIN")
      self._db.executemany(
        "UPDATE attempts SET final = 0 WHERE id = ?", [(row,) for row in rows]
      )
      rows.clear()
