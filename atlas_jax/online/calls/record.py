"""Every attempt at a call, in one sqlite file: cache, costs, and what counts.

A row is written before a call is sent, with its bound, and filled in when it
ends. A row that never ended (the process was killed) is lost: it may have
been paid.

An answer is kept by the content of its request: who asks the same again, in
this process or a later one, gets it at no further cost. Failures are not kept:
they are tried again, unless the search committed what it made of them.

The file holds questions and answers, and neither keys nor headers.
"""

import json
import pathlib
import sqlite3
import threading
import time

from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.calls import Reply
from atlas_jax.online.calls.ledger import PICO, Amount, Caps, Ledger

_VERSION = 2
_TICK_S = 5.0
_TABLES = """
CREATE TABLE IF NOT EXISTS processes (id INTEGER PRIMARY KEY, seconds REAL);
CREATE TABLE IF NOT EXISTS committed (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS requests (key TEXT PRIMARY KEY, request TEXT);
CREATE TABLE IF NOT EXISTS attempts (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL,
  role TEXT NOT NULL,
  model TEXT NOT NULL,
  bound_tokens INTEGER NOT NULL,
  bound_pico INTEGER NOT NULL,
  calls INTEGER NOT NULL,      -- 1
  status TEXT,                 -- of Reply.status; NULL: under way or killed
  text TEXT,                   -- of an answer; NULL: it is none
  prompt_tokens INTEGER,
  completion_tokens INTEGER,
  tokens INTEGER,              -- paid; NULL where lost
  pico INTEGER,                -- paid picodollars; NULL: unpriced or lost
  seconds REAL,
  error TEXT
);
CREATE INDEX IF NOT EXISTS attempts_key ON attempts (key, id);
"""
# Column of a line of costs -> what it sums; lost_* are bounds.
_COSTS = {
  "attempts": "COUNT(*)",
  "answered": "SUM(text NOTNULL AND status IN ('ok', 'truncated'))",
  "calls": "SUM(CASE WHEN tokens IS NULL THEN 0 ELSE calls END)",
  "prompt_tokens": "SUM(IFNULL(prompt_tokens, 0))",
  "completion_tokens": "SUM(IFNULL(completion_tokens, 0))",
  "tokens": "SUM(IFNULL(tokens, 0))",
  "pico": "SUM(IFNULL(pico, 0))",
  "unpriced_calls": "SUM((tokens NOTNULL AND pico IS NULL) * calls)",
  "lost_calls": "SUM((tokens IS NULL) * calls)",
  "lost_tokens": "SUM((tokens IS NULL) * bound_tokens)",
  "lost_pico": "SUM((tokens IS NULL) * bound_pico)",
}


class RecordError(AtlasError):
  """The record's file cannot be used; the text names it."""


class Record:
  """The record of one run; `path` None keeps it in memory.

  One process writes it (the run directory is locked); close it at the end.

  Raises:
    RecordError: the file is no record, or of another version.
  """

  def __init__(self, path: pathlib.Path | None = None):
    self._lock = threading.Lock()
    self._closed = threading.Event()
    try:
      self._open(path)
    except sqlite3.DatabaseError as error:
      raise RecordError(f"{path} is not a record of calls: {error}") from None
    self._began = time.monotonic()
    if path is not None:
      # A killed process is missed by less than one tick of wall time.
      threading.Thread(target=self._tick, daemon=True).start()

  def _open(self, path) -> None:
    if path is not None:
      path.parent.mkdir(parents=True, exist_ok=True)
    self._db = sqlite3.connect(
      ":memory:" if path is None else path,
      check_same_thread=False,
      isolation_level=None,
    )
    self._db.row_factory = sqlite3.Row
    # A commit in the write-ahead log outlives the process at once, and a
    # power failure after the next checkpoint.
    self._db.execute("PRAGMA journal_mode=WAL")
    self._db.execute("PRAGMA synchronous=NORMAL")
    (version,) = self._db.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
      raise RecordError(
        f"{path} is a record of version {version}; this program writes"
        f" version {_VERSION}: use another directory"
      )
    self._db.executescript(_TABLES)
    self._db.execute(f"PRAGMA user_version={_VERSION}")
    row = "SELECT IFNULL(SUM(seconds), 0) FROM processes"
    (self._before_s,) = self._db.execute(row).fetchone()
    self._process = self._db.execute(
      "INSERT INTO processes (seconds) VALUES (0)"
    ).lastrowid

  def _tick(self) -> None:
    while not self._closed.wait(_TICK_S):
      self._keep_time()

  def _keep_time(self) -> None:
    with self._lock:
      if not self._closed.is_set():
        self._db.execute(
          "UPDATE processes SET seconds=? WHERE id=?",
          (time.monotonic() - self._began, self._process),
        )

  def close(self) -> None:
    self._keep_time()
    with self._lock:
      self._closed.set()
      self._db.close()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  def _row(self, query: str, *values):
    with self._lock:
      return self._db.execute(query, values).fetchone()

  def read(self, key: str):
    """What was committed under `key`, a value of JSON; None: nothing."""
    row = self._row("SELECT value FROM committed WHERE key=?", key)
    return None if row is None else json.loads(row[0])

  def commit(self, key: str, value) -> None:
    """Keeps a value of JSON for good, in one transaction.

    It is what the search decided (search/files.py); answers are kept by
    themselves.
    """
    with self._lock:
      self._db.execute(
        "INSERT OR REPLACE INTO committed VALUES (?, ?)",
        (key, json.dumps(value)),
      )

  def reply(self, key: str) -> Reply | None:
    """The answer to the request `key`; None: there is none yet."""
    row = self._row(
      "SELECT status, text, prompt_tokens, completion_tokens, seconds"
      " FROM attempts WHERE key=? AND text NOTNULL ORDER BY id DESC",
      key,
    )
    return None if row is None else Reply(*row)

  def begin(
    self, key: str, role: str, model: str, request: dict, bound: Amount
  ) -> int:
    """Notes, for good, that an attempt is about to be sent; its row."""
    text = json.dumps(request, ensure_ascii=False, sort_keys=True)
    with self._lock, self._db:
      self._db.execute("BEGIN")
      self._db.execute(
        "INSERT OR IGNORE INTO requests VALUES (?, ?)", (key, text)
      )
      return self._db.execute(
        "INSERT INTO attempts (key, role, model, calls, bound_tokens,"
        " bound_pico) VALUES (?, ?, ?, 1, ?, ?)",
        (key, role, model, bound.tokens, bound.pico),
      ).lastrowid

  def settle(self, row: int, attempt: Reply, cost: Amount | None) -> None:
    """Fills in how the attempt of `row` ended; a text is kept as an answer.

    cost: None: it is lost, at its bound.
    """
    a, tokens, pico = attempt, None, None
    if cost is not None:
      tokens, pico = cost.tokens, None if cost.unpriced else cost.pico
    with self._lock:
      self._db.execute(
        "UPDATE attempts SET status=?, text=?, prompt_tokens=?,"
        " completion_tokens=?, seconds=?, error=?, tokens=?, pico=? WHERE id=?",
        (
          *(a.status, a.text, a.prompt_tokens, a.completion_tokens),
          *(a.seconds, a.error, tokens, pico, row),
        ),
      )

  def ledger(self, caps: Caps) -> Ledger:
    """A ledger that knows what the run's processes used by now."""
    lines = self._lines()

    def total(*names: str) -> Amount:
      return Amount(*(sum(line[name] for line in lines) for name in names))

    return Ledger(
      caps,
      spent=total("calls", "tokens", "pico", "unpriced_calls"),
      lost=total("lost_calls", "lost_tokens", "lost_pico"),
      # The start of servers included.
      seconds=self._before_s + time.monotonic() - self._began,
    )

  def costs(self) -> list[dict]:
    """A line for each role and model: what it did cost, over all processes.

    lost_* are the bounds of calls that ended without a word on their cost.
    """
    return [
      {
        name.replace("pico", "dollars"): x / PICO if "pico" in name else x
        for name, x in line.items()
      }
      for line in self._lines()
    ]

  def _lines(self) -> list[dict]:
    columns = (f"{sums} AS {name}" for name, sums in _COSTS.items())
    query = (
      f"SELECT role, model, {', '.join(columns)} FROM attempts"
      " GROUP BY role, model ORDER BY role, model"
    )
    with self._lock:
      return [dict(row) for row in self._db.execute(query)]
