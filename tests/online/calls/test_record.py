"""What a record knows in a later process."""

import asyncio
import sqlite3
import time

import pytest

from atlas_jax.online.calls.calls import Reply
from atlas_jax.online.calls.ledger import Amount, BudgetSpent, Caps
from atlas_jax.online.calls.record import Record, RecordError
from tests.online.opened import Run, ask, request
from tests.online.stub_server import StubServer

BOUND = Amount(1, 100, 1000)


def put(record, key, status="ok", *, cost=BOUND, **ended):
  """Notes one attempt as begun and ended."""
  row = record.begin(key, "role", "m", {"messages": [key]}, BOUND)
  record.settle(row, Reply(status, **ended), cost)


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


def test_what_was_under_way_at_a_kill_is_lost_and_asked_again(tmp_path):
  path, first, second = tmp_path / "record.sqlite", Run(), Run(Caps(calls=3))
  with StubServer(lambda m: "x", answers=1) as stub:
    first.record = killed = Record(path)  # and never closed

    async def main():
      model = first.open(url=stub.url)
      assert (await model.ask(request("known"))).ok
      under_way = asyncio.create_task(model.ask(request("open")))
      while len(stub.calls) < 2:
        await asyncio.sleep(0.01)
      killed.settle = lambda *_: None
      under_way.cancel()
      await model.aclose()

    asyncio.run(main())
    stub.answers = None
    with Record(path) as record:
      second.record, second.ledger = record, record.ledger(Caps(calls=3))
      # A token a byte, 128 for the template, 12 for the role, 8 for the text.
      assert second.ledger.lost == Amount(1, 128 + 12 + 8 + 4 + 9)
      model = second.open(url=stub.url)
      asked = (request(text) for text in ("known", "open", "new"))
      known, again, new = ask(model, *asked)
      assert known.text == again.text == "x" and type(new) is BudgetSpent
    assert len(stub.calls) == 3
  killed.close()


def test_wall_time_is_kept_over_processes(tmp_path):
  path = tmp_path / "record.sqlite"
  for _ in range(2):
    Record(path).close()
  with sqlite3.connect(path) as db:
    db.execute("UPDATE processes SET seconds = 30")
  with Record(path) as record:
    time.sleep(0.3)  # the start of servers, before there is a ledger
    assert 60.3 <= record.ledger(Caps(minutes=2)).seconds < 70


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
