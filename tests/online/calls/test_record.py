"""What a record knows in a later process."""

import sqlite3
import subprocess
import sys
import time

import pytest

from atlas_jax.online.calls.ledger import Amount, Caps
from atlas_jax.online.calls.record import Record, RecordError
from tests.online.calls.recorded import put


def test_an_answer_is_kept_and_paid_once(tmp_path):
  path = tmp_path / "r" / "record.sqlite"
  with Record(path) as record:
    assert record.reply("k") is None
    put(record, "k", text="seven", cost=Amount(1, 9, 90), completion_tokens=3)
    assert record.reply("k").text == "seven"
  with Record(path) as record:
    for _ in range(2):
      reply = record.reply("k")
      assert (reply.text, reply.completion_tokens) == ("seven", 3)
      assert reply.ok and reply.cached and reply.dollars == 90e-12
    assert record.reply("other") is None
    assert record.paid() == Amount(1, 9, 90)
    assert record.ledger(Caps(tokens=10)).left() == {"tokens": 1}
    assert record.ledger(Caps()).spent.tokens == 9


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
    assert record.paid() == Amount(4, 400, 4000)
    assert record.ledger(Caps()).lost == Amount(1, 100, 1000)


def test_what_was_committed_outlives_the_process(tmp_path):
  with Record(tmp_path / "r.sqlite") as record:
    assert record.read("a") is None
    record.commit("a", {"n": 1})
    record.commit("a", {"n": 2})
    record.commit("b", 0)
  with Record(tmp_path / "r.sqlite") as record:
    assert record.read("a") == {"n": 2} and record.read("b") == 0


def test_a_call_under_way_at_a_kill_is_lost(tmp_path):
  path = tmp_path / "record.sqlite"
  script = (
    "import os, pathlib, sys\n"
    "from atlas_jax.online.calls.record import Record\n"
    "from tests.online.calls.recorded import put, BOUND\n"
    "record = Record(pathlib.Path(sys.argv[1]))\n"
    "put(record, 'k', text='kept', cost=type(BOUND)(1, 10, 20))\n"
    "record.begin('k2', 'role', 'm', {}, BOUND)\n"
    "os.kill(os.getpid(), 9)\n"
  )
  done = subprocess.run([sys.executable, "-c", script, path])
  assert done.returncode == -9
  with Record(path) as record:
    assert record.reply("k").text == "kept" and record.reply("k2") is None
    assert record.paid() == Amount(2, 110, 1020)
    (line,) = record.costs()
  assert (line["calls"], line["tokens"]) == (1, 10)
  assert line["dollars"] == pytest.approx(20e-12)
  assert (line["lost_calls"], line["lost_tokens"]) == (1, 100)
  assert line["lost_dollars"] == pytest.approx(1000e-12)


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


def test_costs_are_a_line_for_each_role_and_model():
  with Record() as record:
    put(record, "a", text="x", cost=Amount(1, 5, 10**12), prompt_tokens=2)
    put(record, "b", "empty", text="", cost=Amount(1, 3, 0))
    put(record, "c", model="a", text="x")
    lines = record.costs()
  assert [(n["model"], n["attempts"], n["answered"]) for n in lines] == [
    *(("a", 1, 1), ("m", 2, 1))
  ]
  assert lines[1]["dollars"] == 1.0 and lines[1]["tokens"] == 8
  assert lines[1]["prompt_tokens"] == 2


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
