"""What a record hands back to a run that starts again."""

import asyncio
import sqlite3
import subprocess
import sys
import time

import pytest

from atlas_jax.online.calls.asks import answered, attempted
from atlas_jax.online.calls.record import Attempt, Record, RecordError, reply_of
from atlas_jax.online.calls.spend import Amount, Caps
from tests.online.recorded import BOUND, put


def test_an_answer_is_charged_once_in_each_process(tmp_path):
  path = tmp_path / "r" / "record.sqlite"
  with Record(path) as record:
    assert record.past("k").reply is None
    put(record, "k", text="seven", cost=Amount(1, 9, 90), completion_tokens=3)
    own = record.past("k")
    assert own.attempts == () and own.reply.text == "seven"
  with Record(path) as record:
    first, second = record.past("k"), record.past("k")
    assert [a.cost for a in first.attempts] == [Amount(1, 9, 90)]
    assert second.attempts == ()
    for past in (first, second):
      reply = past.reply
      assert (reply.text, reply.completion_tokens) == ("seven", 3)
      assert reply.cached and reply.dollars == 90e-12
    assert record.past("other").reply is None
    assert record.paid() == Amount(1, 9, 90)
    assert record.ledger(Caps(tokens=10)).room().tokens == 10


def test_asks_of_one_key_come_back_in_their_order(tmp_path):
  # Asked: it fails for good. Asked again: an answer after one more failure.
  path = tmp_path / "record.sqlite"
  with Record(path) as record:
    put(record, "k", "error", final=False, error="500")
    put(record, "k", "error", final=True, error="503")
    put(record, "k", "timeout", final=False, cost=None)
    put(record, "k", "ok", text="seven")
  with Record(path) as record:
    first, second, third = (record.past("k") for _ in range(3))
  assert first.reply.status == "error" and first.reply.error == "503"
  assert first.reply.attempts == 2 and len(first.attempts) == 2
  assert second.reply.text == "seven"
  assert [a.cost for a in second.attempts] == [None, BOUND]
  assert third.reply.text == "seven" and third.attempts == ()


def test_a_failure_that_two_asks_shared_comes_back_twice(tmp_path):
  path = tmp_path / "record.sqlite"

  async def asks(record, statuses, *, at_once):
    """Two asks of one key at one time, then one more; what is sent."""
    ledger, sent = record.ledger(Caps()), []

    async def send():
      await asyncio.sleep(0)
      status = statuses[len(sent)]
      sent.append(status)
      return Attempt(
        *("role", "m", status, True, BOUND, BOUND, True), text=status
      )

    async def work(past):
      done = await attempted(
        *(ledger, record),
        **{"key": "k", "role": "role", "model": "m", "request": {}},
        bound=BOUND,
        send=send,
      )
      return reply_of([*past, done], cached=False)

    def one():
      return answered(ledger, record, "k", work)

    if at_once:
      replies = await asyncio.gather(one(), one())
    else:
      replies = [await one(), await one()]
    replies.append(await one())
    return [r.status for r in replies], sent, ledger.snapshot().calls

  wanted = ["error", "error", "ok"]
  with Record(path) as record:
    found = asyncio.run(asks(record, ["error", "ok"], at_once=True))
    assert found == (wanted, ["error", "ok"], 2)
  for at_once in (True, False):
    with Record(path) as record:
      found = asyncio.run(asks(record, [], at_once=at_once))
      assert found == (wanted, [], 2)


def test_failures_that_came_last_are_tried_again(tmp_path):
  # a failed while m still answered later: history. b failed in the outage
  # that ended the run; that n answers later does not matter.
  path = tmp_path / "record.sqlite"
  with Record(path) as record:
    put(record, "a", "error")
    put(record, "good", text="x")
    put(record, "b", "error")
    put(record, "c", model="n", text="x")
  with Record(path) as record:
    assert record.past("a").reply.status == "error"
    again = record.past("b")
    assert again.reply is None and len(again.attempts) == 1
    put(record, "b", text="at last")
  with Record(path) as record:
    # As in the second process, where b was asked once.
    assert record.past("b").reply.text == "at last"


def test_an_empty_answer_that_came_last_is_history(tmp_path):
  # It is scored, and shows that its model answers: a failed before it.
  path = tmp_path / "record.sqlite"
  with Record(path) as record:
    put(record, "a", "error")
    put(record, "b", "empty")
    put(record, "c", "error")
  with Record(path) as record:
    assert record.past("a").reply.status == "error"
    assert record.past("b").reply.status == "empty"
    assert record.past("c").reply is None


def test_a_call_under_way_at_a_kill_is_lost(tmp_path):
  path = tmp_path / "record.sqlite"
  script = (
    "import os, pathlib, sys\n"
    "from atlas_jax.online.calls.record import Record\n"
    "from tests.online.recorded import put, BOUND\n"
    "record = Record(pathlib.Path(sys.argv[1]))\n"
    "put(record, 'k', text='kept', cost=type(BOUND)(1, 10, 20))\n"
    "record.begin('k2', 'role', 'm', {}, BOUND)\n"
    "os.kill(os.getpid(), 9)\n"
  )
  done = subprocess.run([sys.executable, "-c", script, path])
  assert done.returncode == -9
  with Record(path) as record:
    assert record.past("k").reply.text == "kept"
    lost = record.past("k2")
    assert lost.reply is None and [a.status for a in lost.attempts] == ["lost"]
    assert lost.attempts[0].bound == BOUND and lost.attempts[0].cost is None
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
    put(record, "b", "empty", final=False, cost=Amount(1, 3, 0))
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
  newer = tmp_path / "newer.sqlite"
  with sqlite3.connect(newer) as db:
    db.execute("PRAGMA user_version=99")
  with pytest.raises(RecordError, match="version 99"):
    Record(newer)
