"""The proxy when its teacher is late, wrong, killed, or back again."""

import asyncio
import collections
import json
import subprocess
import sys
import time

import pytest

from atlas_jax.online.production.breaker import Breaker
from tests.online.production.proxied import (
  TEACHING,
  application,
  contents,
  proxy,
  refusal,
  teacher,
  upstream,
  whole,
  word_of,
)
from tests.online.stub_server import StubServer

CLIENTS = 32


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def test_a_breaker_opens_tries_once_and_closes():
  clock = Clock()
  breaker = Breaker(2, 10.0, clock)
  assert breaker.admit() and breaker.admit()
  breaker.report(False)
  breaker.report(None)  # given up: no word on the teacher
  assert breaker.state == "closed"
  breaker.report(False)
  assert breaker.state == "open" and not breaker.admit()
  clock.now = 9.9
  assert not breaker.admit()
  clock.now = 10.0
  assert breaker.state == "trial" and breaker.admit()
  assert not breaker.admit()  # one at a time
  # Whatever becomes of it, and of calls of before, the next tries later.
  for ended in (None, False):
    breaker.report(ended)
    assert breaker.state == "open" and not breaker.admit()
  clock.now = 20.0
  assert breaker.admit()
  clock.now = 35.0  # it hung: its failure counts from here
  breaker.report(False)
  assert not breaker.admit()
  clock.now = 45.0
  assert breaker.admit()
  breaker.report(True)
  assert breaker.state == "closed" and breaker.admit()


def test_failures_that_are_not_in_a_row_do_not_open_it():
  breaker = Breaker(2, 10.0, Clock())
  for succeeded in (False, True, False, True, False):
    assert breaker.admit()
    breaker.report(succeeded)
  assert breaker.state == "closed"


async def test_a_late_teacher_is_not_waited_for():
  async with proxy(
    upstream(), teacher(latency_s=60), teach_deadline_s=0.5
  ) as p:
    start = time.monotonic()
    assert await p.ask() == ("alone_late", "re ALONE")
    assert time.monotonic() - start < 20  # the teacher takes 60
    assert await p.counts() == {"alone_late": 1}
  assert contents(p.up) == ["PROBE 1+1?", "ALONE 1+1?"]


@pytest.mark.parametrize(("probe_s", "asked"), [(1.5, 0), (0.6, 2)])
async def test_a_slow_probe_says_nothing_of_the_teacher(probe_s, asked):
  async def chat(request):
    body = await request.json()
    if word_of(body["messages"]) == "PROBE":
      await asyncio.sleep(probe_s)
    return whole("ok")

  deadline = {"teach_deadline_s": 1.0, "breaker_failures": 1}
  async with proxy(application(chat), teacher(latency_s=2.0), **deadline) as p:
    hows = [(await p.ask())[0] for _ in range(2)]
    assert hows == ["alone_late"] * 2
    assert (await p.health())["teacher"]["circuit"] == "closed"
  assert len(p.teach.calls) == asked


async def test_a_dead_teacher_is_not_waited_for_by_one_client_after_another():
  async with proxy(
    upstream(),
    teacher(latency_s=60),
    teach_deadline_s=5.0,
    breaker_failures=2,
    breaker_open_s=4.0,
  ) as p:
    late = await asyncio.gather(*(p.ask() for _ in range(2)))
    assert late == [("alone_late", "re ALONE")] * 2
    hows = [(await p.ask())[0] for _ in range(3)]
    assert hows == ["alone_down"] * 3
    status, text = await p.get("/health")
    health = json.loads(text)
    assert status == 200 and health["status"] == "degraded"
    assert health["teacher"] == {"state": "up", "circuit": "open"}
    assert await p.metric("atlas_proxy_teacher_circuit_open") == 1
    # Asked again after a while, by one of those who come.
    p.teach.latency_s = 0.0
    while '"open"' in (await p.get("/health"))[1]:
      await asyncio.sleep(0.1)
    hows = [(await p.ask())[0] for _ in range(2)]
    assert hows == ["taught"] * 2
    assert await p.health() == {
      "status": "ok",
      "upstream": {"state": "up"},
      "teacher": {"state": "up", "circuit": "closed"},
      "in_flight": 0,
    }
  assert len(p.teach.calls) == 4


@pytest.mark.parametrize(
  "words",
  [
    "just count",
    "<teaching>count",
    "<teaching>a</teaching> <teaching>b</teaching>",
    " ",
    "<think><teaching>a</teaching>",
  ],
)
async def test_what_is_no_teaching_teaches_nothing(words):
  async with proxy(upstream(), teacher(words), breaker_failures=2) as p:
    # More often than the breaker lets a failing teacher fail: it is well.
    for _ in range(3):
      assert await p.ask() == ("alone_bad_teaching", "re ALONE")
  assert len(p.teach.calls) == 3


async def test_a_refused_question_is_not_the_teachers_fault():
  def answer(messages):
    return refusal(400) if "long" in messages[-1]["content"] else TEACHING

  async with proxy(upstream(), StubServer(answer), breaker_failures=1) as p:
    for _ in range(3):
      assert (await p.ask("long"))[0] == "alone_down"
    assert (await p.ask("short"))[0] == "taught"


@pytest.fixture
def mortal_teacher():
  process = subprocess.Popen(
    [sys.executable, "-m", "tests.online.stub_server", TEACHING],
    stdout=subprocess.PIPE,
    text=True,
  )
  yield process, process.stdout.readline().strip()
  process.kill()
  process.wait()
  process.stdout.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_teacher_is_killed_under_load_and_no_request_fails(
  mortal_teacher, stream
):
  process, url = mortal_teacher
  seen = collections.Counter()

  async def client(p):
    # Until it has met both a living and a dead teacher, and then some.
    for _ in range(6):
      how, text = await (p.stream() if stream else p.ask())
      expected = "re GUIDED" if how == "taught" else "re ALONE"
      assert "".join(text) == expected
      seen[how] += 1
      if seen["taught"] == 2 * CLIENTS and process.poll() is None:
        process.kill()  # SIGKILL

  async with proxy(upstream(latency_s=0.02), url, teach_deadline_s=60.0) as p:
    await asyncio.gather(*(client(p) for _ in range(CLIENTS)))
    counts = await p.counts()
    assert counts == dict(seen)
    assert sum(seen.values()) == 6 * CLIENTS
    assert set(seen) <= {"taught", "alone_down", "alone_late"}
    assert seen["taught"] >= 2 * CLIENTS and seen["alone_down"] > CLIENTS
    health = await p.health()
    assert health["status"] == "degraded"
    assert health["teacher"]["state"] == "down"
