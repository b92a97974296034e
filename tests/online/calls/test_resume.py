"""A run that is killed and started again, and one that meets every fault.

What was sent is counted at the server, not by the client.
"""

import json
import os
import signal
import sqlite3
import time

import pytest

from tests import forked
from tests.online.calls.ask_many import WIDTH
from tests.online.stub_server import Faults, StubServer

ROUNDS = 5
FAULTS = Faults(seed=3, share=0.5)
SECRET = "sk-very/secret+key=12345"


def answer(messages):
  text = messages[-1]["content"]
  return f"answer {sum(map(ord, text)) % 97} to " + text[:20]


def start(stub, directory, *, caps=None, timeout_s=60.0):
  return forked.Process(
    *("tests.online.calls.ask_many", stub.url, str(directory)),
    *(str(ROUNDS), str(timeout_s), json.dumps(caps or {})),
    env=os.environ | {"STUB_KEY": SECRET},
  )


def run(stub, directory, **more) -> dict:
  """What ask_many printed; its log holds no secret."""
  process = start(stub, directory, **more)
  out, log = process.communicate(timeout=300)
  assert process.returncode == 0, log
  assert SECRET not in out + log
  return json.loads(out.splitlines()[-1])


def kill_after(stub, directory, answers: int, **more) -> int:
  """Kills a run when so many answers are in its record; what was under way."""
  stub.answers = answers
  process = start(stub, directory, **more)
  deadline = time.monotonic() + 300
  # Full rounds and a part of one are answered; the rest hangs.
  sent = (answers // WIDTH + 1) * WIDTH
  while len(stub.calls) < sent or len(answered(directory)) < answers:
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert len(stub.calls) == sent
  stub.answers = None
  return sent - answers


def stub_server(**more):
  return StubServer(answer, api_key=SECRET, **more)


def answered(directory) -> set[str]:
  """The questions that the record has an answer to."""
  with sqlite3.connect(directory / "record.sqlite") as db:
    rows = db.execute(
      "SELECT request FROM requests JOIN attempts USING (key)"
      " WHERE text NOTNULL"
    ).fetchall()
  return {json.loads(row[0])["messages"][0]["content"] for row in rows}


def asked(calls) -> list[str]:
  return [call.body["messages"][0]["content"] for call in calls]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
  with stub_server() as stub:
    found = run(stub, tmp_path_factory.mktemp("whole"))
    assert len(stub.calls) == found["calls"] == WIDTH * ROUNDS
  assert all(status == "ok" for status, _ in found["texts"])
  return found


@pytest.mark.parametrize("kill_at", [3, 17, 36])
def test_a_killed_run_resumes_as_if_nothing_had_happened(
  tmp_path, uninterrupted, kill_at
):
  with stub_server() as stub:
    lost = kill_after(stub, tmp_path, kill_at)
    known, before = answered(tmp_path), len(stub.calls)
    found = run(stub, tmp_path)
    again = asked(stub.calls[before:])
    assert not known & set(again)
    assert len(again) == len(set(again)) == WIDTH * ROUNDS - kill_at
  assert found["texts"] == uninterrupted["texts"]
  for key in ("calls", "tokens", "dollars"):
    assert found[key] == uninterrupted[key]
  # Those under way at the kill are shown apart, at their bound: a token a
  # byte, 128 for the template, 12 for the role, 8 for the text, 20 to answer.
  assert found["lost"]["calls"] == lost > 0
  assert found["lost"]["tokens"] == sum(len(t) + 168 for t in again[:lost])
  assert uninterrupted["lost"]["calls"] == 0
  with stub_server() as idle:  # a third start has nothing left to ask
    third = run(idle, tmp_path)
    assert idle.calls == []
  for key in ("texts", "calls", "tokens", "dollars", "lost"):
    assert third[key] == found[key]


def test_lost_calls_count_against_the_cap_of_the_resumed_run(tmp_path):
  caps = {"calls": 30}
  with stub_server() as stub:
    lost = kill_after(stub, tmp_path, 11, caps=caps)
    found = run(stub, tmp_path, caps=caps)
    assert len(stub.calls) == 30
  assert found["lost"]["calls"] == lost == 5
  assert sum(t is not None for t in found["texts"]) == 25


def test_every_fault_gives_the_same_replies(tmp_path, uninterrupted):
  with stub_server(faults=FAULTS) as stub:
    found = run(stub, tmp_path, timeout_s=2.0)
    kinds = {call.fault for call in stub.calls} - {None}
    assert kinds == set(FAULTS.kinds), "another seed, please"
    sent = len(stub.calls)
    assert found["calls"] + found["lost"]["calls"] == sent > WIDTH * ROUNDS
  assert found["texts"] == uninterrupted["texts"]


def test_the_key_is_in_no_file_and_in_no_log(tmp_path):
  # The stub repeats the key that it was sent in its refusal.
  with StubServer(answer, api_key="another") as stub:
    process = start(stub, tmp_path)
    out, log = process.communicate(timeout=60)
    assert process.returncode != 0 and len(stub.calls) <= 8
    assert stub.calls[0].headers["Authorization"] == f"Bearer {SECRET}"
  assert "ModelRefused: config.student: the server of stub" in log
  assert "STUB_KEY" in log and "wrong key Bearer ***" in log
  files = [p for p in tmp_path.rglob("*") if p.is_file()]
  assert files
  for content in [out.encode(), log.encode(), *(p.read_bytes() for p in files)]:
    assert SECRET.encode() not in content
