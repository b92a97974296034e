"""Every attempt at a call, in one sqlite file: cache, resume and costs.

A row is written before a call is sent, with its bound, and filled in when it
ends. A row that never ended (the process was killed) is lost: it may have
been paid.

An ask is what a caller waits for: one or more attempts, of which the last is
the outcome. A run that starts again asks the same again, in the same order
for each key, and gets:
  1. the outcome of that ask, with the cost of its attempts, when it is known;
     a failure that several asks shared is handed to as many;
  2. the good reply, once a key has one, at no further cost;
  3. nothing, and then it is tried (again), after failures that came last
     (no later call of the model was answered) or that the run stopped for
     (failures.py): they are no part of its history, and an outage can be
     waited out.

The file holds questions and answers, and neither keys nor headers.
"""

import json
import pathlib
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from atlas_jax.errors import AtlasError
from atlas_jax.online.calls import notes, verdicts
from atlas_jax.online.calls.calls import Reply
from atlas_jax.online.calls.failures import Failures
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.record_tables import FORGET, GOOD, TABLES
from atlas_jax.online.calls.spend import PICO, Amount, Caps

_VERSION = 1
_TICK_S = 5.0


class RecordError(AtlasError):
  """The record's file cannot be used; the text names it."""


@dataclass(frozen=True)
class Attempt:
  """One row, as it ended. cost None: lost, at its bound."""

  role: str
  model: str
  status: str
  final: bool
  bound: Amount
  cost: Amount | None
  priced: bool
  text: str | None = None
  prompt_tokens: int | None = None
  completion_tokens: int | None = None
  seconds: float = 0.0
  error: str | None = None


@dataclass(frozen=True)
class Past:
  """What is known of an ask.

  attempts: those not handed out before in this process, oldest first; they
  are to be charged. reply: the outcome; None: it must be tried.
  """

  attempts: tuple[Attempt, ...]
  reply: Reply | None


class Record:
  """The record of one run; `path` None keeps it in memory.

  One process writes it (the run directory is locked); close it at the end.

  Raises:
    RecordError: the file is no record, or of another version.
  """

  def __init__(self, path: pathlib.Path | None = None):
    # key -> the ask that runs now; kept by asks.py.
    self.under_way: dict = {}
    self._lock = threading.Lock()
    self._handed: dict[str, int] = {}  # key -> the last row handed out
    # key -> a failure of an earlier process, for each more ask that gets it.
    self._shared: dict[str, list[Reply]] = {}
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
    self._db.executescript(TABLES + notes.TABLE + verdicts.TABLE)
    self.notes = notes.Notes(self._db, self._lock)
    self.verdicts = verdicts.Verdicts(self._db, self._lock)
    self.failures = Failures(self._db, self._lock)
    self._db.execute(f"PRAGMA user_version={_VERSION}")
    self._db.execute("UPDATE attempts SET status='lost' WHERE settled IS NULL")
    self._db.execute(FORGET)
    row = "SELECT IFNULL(SUM(seconds), 0) FROM processes"
    (self._before_s,) = self._db.execute(row).fetchone()
    row = "SELECT IFNULL(MAX(settled), 0) FROM attempts"
    (self._settled,) = self._db.execute(row).fetchone()
    self._process = self._db.execute(
      "INSERT INTO processes (started, seconds) VALUES (?, 0)", (time.time(),)
    ).lastrowid

  def ledger(self, caps: Caps) -> Ledger:
    """A ledger that knows what the run's earlier processes used."""
    return Ledger(caps, paid=self.paid(), seconds=self._seconds())

  def _seconds(self) -> float:
    """Of this and earlier processes, the start of servers included."""
    return self._before_s + time.monotonic() - self._began

  def read(self, key: str):
    """What was committed under `key`, a value of JSON; None: nothing."""
    query = "SELECT value FROM committed WHERE key=?"
    with self._lock:
      row = self._db.execute(query, (key,)).fetchone()
    return None if row is None else json.loads(row[0])

  def commit(self, key: str, value) -> None:
    """Keeps a value of JSON for good, in one transaction.

    Good replies are kept by themselves, by the content of their requests:
    whoever walks again through what was answered gets it at no cost. What
    depends on failures, on the clock or on the spend is committed here by the
    search, and read before it is made again:

      evaluation N HASH  (the Nth of the run, of these jobs) when its rollouts
          are made and nothing was raised: which of them were left out and why,
          and the verdicts. Those left out are not asked again when it is read.
          One that raised was not committed: its failures are tried again.
      reflection N  a call of the reflection model that brought no text, once
          the search goes on with another text, or has ended.
      candidate N  the spend when it was accepted, at the first time.
      rounds, ended, problems  as their readers say.
    """
    with self._lock:
      self._db.execute(
        "INSERT OR REPLACE INTO committed VALUES (?, ?)",
        (key, json.dumps(value)),
      )

  def evaluation_begins(self) -> None:
    """What was met before is history."""
    self.failures.evaluation_begins()
    self.verdicts.evaluation_begins()

  def forget_evaluation(self) -> None:
    """The run stops for what its last evaluation met: not for good."""
    self.failures.forget_evaluation()
    self.verdicts.forget_evaluation()

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

  def paid(self) -> Amount:
    """All that this and earlier processes paid or lost."""
    row = self._db.execute(
      "SELECT IFNULL(SUM(calls), 0),"
      " IFNULL(SUM(IFNULL(tokens, bound_tokens)), 0),"
      " IFNULL(SUM(CASE WHEN tokens IS NULL THEN bound_pico"
      " ELSE IFNULL(pico, 0) END), 0) FROM attempts"
    ).fetchone()
    return Amount(*row)

  def begin(
    self, key: str, role: str, model: str, request: dict, bound: Amount
  ) -> int:
    """Notes, for good, that an attempt is about to be sent; its row."""
    with self._lock, self._db:
      self._db.execute("BEGIN")
      self._db.execute(
        "INSERT OR IGNORE INTO requests VALUES (?, ?)",
        (key, json.dumps(request, ensure_ascii=False, sort_keys=True)),
      )
      return self._db.execute(
        "INSERT INTO attempts (process, key, role, model, calls,"
        " bound_tokens, bound_pico) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
          *(self._process, key, role, model),
          *(bound.calls, bound.tokens, bound.pico),
        ),
      ).lastrowid

  def settle(self, row: int, key: str, attempt: Attempt) -> None:
    """Fills in how the attempt of `row` ended."""
    cost = attempt.cost
    with self._lock, self._db:
      self._db.execute("BEGIN")
      self._settled += 1
      self._db.execute(
        "UPDATE attempts SET settled=?, status=?, final=?, text=?,"
        " prompt_tokens=?, completion_tokens=?, calls=?, tokens=?, pico=?,"
        " seconds=?, error=? WHERE id=?",
        (
          *(self._settled, attempt.status, attempt.final, attempt.text),
          *(attempt.prompt_tokens, attempt.completion_tokens),
          (cost or attempt.bound).calls,
          None if cost is None else cost.tokens,
          cost.pico if cost is not None and attempt.priced else None,
          *(attempt.seconds, attempt.error, row),
        ),
      )
      self._handed[key] = row
      self.failures.met(row, attempt)

  def share(self, key: str, asks: int) -> None:
    """Notes how many asks got the failure of `key` that was settled last."""
    with self._lock:
      self._db.execute(
        "INSERT INTO shared VALUES (?, ?)", (self._handed[key], asks)
      )

  def past(self, key: str) -> Past:
    """What is known of the next ask of `key`; each row is charged once."""
    if self._shared.get(key):
      return Past((), self._shared[key].pop())
    rows = self._rows(key)
    seen = self._handed.get(key, 0)
    new = [(i, a) for i, a in rows if i > seen]
    for n, (row, attempt) in enumerate(new, 1):
      if attempt.final:
        self._handed[key] = row
        self.failures.met(row, attempt)
        attempts = tuple(a for _, a in new[:n])
        reply = reply_of(attempts)
        shared = "SELECT asks - 1 FROM shared WHERE attempt=?"
        for (more,) in self._db.execute(shared, (row,)):
          self._shared[key] = [reply] * more
        return Past(attempts, reply)
    if new:
      self._handed[key] = new[-1][0]
      return Past(tuple(a for _, a in new), None)
    good = [a for _, a in rows if a.final and a.status in GOOD]
    return Past((), reply_of(good[-1:]) if good else None)

  def _rows(self, key: str) -> list[tuple[int, Attempt]]:
    found = self._db.execute(
      "SELECT id, role, model, status, final, calls, bound_tokens,"
      " bound_pico, tokens, pico, text, prompt_tokens, completion_tokens,"
      " seconds, error FROM attempts WHERE key=? AND status IS NOT NULL"
      " ORDER BY id",
      (key,),
    ).fetchall()
    return [(row[0], _attempt(*row[1:])) for row in found]

  def costs(self) -> list[dict]:
    """A line for each role and model: what it did cost, over all processes.

    lost_* are the bounds of calls that ended without a word on their cost.
    """
    found = self._db.execute(
      "SELECT role, model, COUNT(*), SUM(final AND status IN (?, ?)),"
      " SUM(CASE WHEN tokens IS NULL THEN 0 ELSE calls END),"
      " SUM(IFNULL(prompt_tokens, 0)), SUM(IFNULL(completion_tokens, 0)),"
      " SUM(IFNULL(tokens, 0)), SUM(IFNULL(pico, 0)) / 1e12,"
      " SUM(CASE WHEN tokens NOTNULL AND pico IS NULL THEN calls ELSE 0 END),"
      " SUM(CASE WHEN tokens IS NULL THEN calls ELSE 0 END),"
      " SUM(CASE WHEN tokens IS NULL THEN bound_tokens ELSE 0 END),"
      " SUM(CASE WHEN tokens IS NULL THEN bound_pico ELSE 0 END) / 1e12"
      " FROM attempts GROUP BY role, model ORDER BY role, model",
      GOOD,
    ).fetchall()
    names = (
      *("role", "model", "attempts", "answered", "calls", "prompt_tokens"),
      *("completion_tokens", "tokens", "dollars", "unpriced_calls"),
      *("lost_calls", "lost_tokens", "lost_dollars"),
    )
    return [dict(zip(names, row, strict=True)) for row in found]


def _attempt(
  role,
  model,
  status,
  final,
  calls,
  bound_tokens,
  bound_pico,
  tokens,
  pico,
  *is_,
) -> Attempt:
  cost = None if tokens is None else Amount(calls, tokens, pico or 0)
  return Attempt(
    role,
    model,
    status,
    bool(final),
    Amount(calls, bound_tokens, bound_pico),
    cost,
    pico is not None,
    *is_,
  )


def reply_of(attempts: Sequence[Attempt], *, cached: bool = True) -> Reply:
  """The reply that the last of an ask's attempts gives."""
  last = attempts[-1]
  priced = all(a.priced or a.cost is None for a in attempts)
  pico = sum((a.cost or Amount()).pico for a in attempts)
  return Reply(
    status=last.status,
    text=last.text,
    prompt_tokens=last.prompt_tokens,
    completion_tokens=last.completion_tokens,
    dollars=pico / PICO if priced else None,
    seconds=sum(a.seconds or 0.0 for a in attempts),
    attempts=len(attempts),
    cached=cached,
    error=last.error,
  )
