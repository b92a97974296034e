"""What a run must remember of itself: names and values in the record's file.

rounds   how many rounds of the search are done
ended    why the search ended, after how many rounds and reflections
problems what the problems of each split hash to
"""

import json

TABLE = """
CREATE TABLE IF NOT EXISTS notes (
  name TEXT PRIMARY KEY, value TEXT, settled INTEGER NOT NULL
);
"""


class Notes:
  """Of one record; `lock` guards its `db`. Values are those of JSON."""

  def __init__(self, db, lock):
    self._db, self._lock = db, lock

  def read(self, name: str):
    """The value of `name`; None: nothing was noted."""
    query = "SELECT value FROM notes WHERE name=?"
    with self._lock:
      row = self._db.execute(query, (name,)).fetchone()
    return None if row is None else json.loads(row[0])

  def write(self, name: str, value, *, final: bool = False) -> None:
    """Notes it for good.

    Args:
      name, value: what.
      final: it follows from the failures so far: none of them is tried again
        when the run goes on.
    """
    settled = "(SELECT IFNULL(MAX(settled), 0) FROM attempts)"
    with self._lock:
      self._db.execute(
        "INSERT OR REPLACE INTO notes (name, value, settled)"
        f" VALUES (?, ?, {settled if final else 0})",
        (name, json.dumps(value)),
      )
