"""What a record knows in a later process."""

import sqlite3
import time

import pytest

from atlas_jax.online.calls.ledger import Amount, Caps
from atlas_jax.online.calls.record import Record, RecordError
from tests.online.calls.recorded import put


def test_an_answer_without_words_is_kept_and_a_failure_is_not(tmp_path):
  path = tmp_path / "record.sqlite"
  with Record(path) as record:
    put(record, "failed", "error", error="503")
    put(record, "silent", "empty", text="", error="an answer without text")
    put(record, "late", "timeout", cost=None)
    put(record, "late", "ok", text="at last")
  with Record(path) as record:
    assert record.reply("failed") is None
    silent = record.reply("silent")
    assert (silent.status, silent.text) == ("empty", "")
    assert record.reply("late").text == "at last"
    ledger = record.ledger(Caps())
  assert ledger.spent == Amount(3, 300, 3000)
  assert ledger.lost == Amount(1, 100, 1000)


def test_wall_time_is_kept_over_processes(tmp_path):
  path = tmp_path / "record.sqlite"
  for _ in range(2):
    Record(path).close()
  with sqlite3.connect(path) as db:
    db.execute("UPDATE processes SET seconds = 30")
  with Record(path) as record:
    assert 60 <= record.ledger(Caps(minutes=2)).seconds < 61


def test_the_start_of_servers_counts_in_the_process_that_starts_them(tmp_path):
  with Record(tmp_path / "record.sqlite") as record:
    time.sleep(0.3)  # before there is a ledger
    assert 0.3 <= record.ledger(Caps(minutes=1)).seconds < 10


def test_a_file_that_is_no_record_is_refused(tmp_path):
  path = tmp_path / "record.sqlite"
  path.write_text("not a database, but quite long enough to be looked at" * 9)
  with pytest.raises(RecordError, match=r"record\.sqlite is not a record"):
    Record(path)
  for version in (1, 99):
    other = tmp_path / f"{version}.sqlite"
    with sqlite3.connect(other) as db:
      db.execute(f"PRAGMA user_version={version}")
    with pytest.raises(RecordError, match=f"version {version};.*directory"):
      Record(other)
