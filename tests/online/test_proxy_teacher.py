"""The proxy when its teacher is late, wrong, killed, or back again."""

import asyncio
import collections
import json
import subprocess
import sys
import time

import pytest
from aiohttp import web

from atlas_jax.online.production.proxy.breaker import Breaker
from atlas_jax.teaching.prompts import NO_PROBE
from tests.online.proxied import TEACHING, contents, run, teacher, upstream
from tests.online.stub_server import StubServer

CLIENTS = 32


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def test_a_breaker_opens_tries_once_and_closes():
  clock = Clock()
  breaker = Breaker(2, 10.0, clock)
  for _ in range(2):
    assert breaker.admit() == "closed"
  breaker.report("closed", False)
  breaker.report("closed", None)  # given up: no word on the teacher
  assert breaker.state == "closed"
  breaker.report("closed", False)
  assert breaker.state == "open" and breaker.admit() is None
  clock.now = 9.9
  assert breaker.admit() is None
  clock.now = 10.0
  assert breaker.admit() == "trial"
  assert breaker.admit() is None  # one at a time
  breaker.report("trial", None)
  assert breaker.admit() == "trial"
  # A late failure of before does not count as the trial's.
  breaker.report("closed", False)
  assert breaker.state == "trial"
  breaker.report("trial", False)
  assert breaker.state == "open"
  clock.now = 20.0
  assert breaker.admit() == "trial"
  breaker.report("trial", True)
  assert breaker.state == "closed" and breaker.admit() == "closed"


def test_failures_that_are_not_in_a_row_do_not_open_it():
  breaker = Breaker(2, 10.0, Clock())
  for succeeded in (False, True, False, True, False):
    breaker.report(breaker.admit(), succeeded)
  assert breaker.state == "closed"


def test_a_late_teacher_is_not_waited_for():
  async def check(proxied):
    start = time.monotonic()
    assert await proxied.ask() == ("alone_late", "re ALONE")
    assert time.monotonic() - start < 20  # the teacher takes 60
    assert await proxied.counts() == {"alone_late": 1}

  with upstream() as up, teacher(latency_s=60) as teach:
    run(check, up, teach, teach_deadline_s=0.5)
  assert contents(up) == ["PROBE 1+1?", "ALONE 1+1?"]


def test_a_late_probe_is_not_waited_for():
  def slow(messages):
    if messages[-1]["content"].startswith("PROBE"):
      time.sleep(1.5)  # the whole stub: also the answer comes after it
    return "ok"

  async def check(proxied):
    assert (await proxied.ask())[0] == "alone_late"

  with upstream(slow) as up, teacher() as teach:
    run(check, up, teach, teach_deadline_s=0.2)
  assert teach.calls == []


def test_a_dead_teacher_is_not_waited_for_by_one_client_after_another():
  async def check(proxied):
    late = await asyncio.gather(*(proxied.ask() for _ in range(2)))
    assert late == [("alone_late", "re ALONE")] * 2
    hows = [(await proxied.ask())[0] for _ in range(3)]
    assert hows == ["alone_down"] * 3
    status, text = await proxied.get("/health")
    health = json.loads(text)
    assert status == 200 and health["status"] == "degraded"
    assert health["teacher"] == {"state": "up", "circuit": "open"}
    assert await proxied.metric("atlas_proxy_teacher_circuit_open") == 1
    # Asked again after a while, by one of those who come.
    stub.latency_s = 0.0
    while '"open"' in (await proxied.get("/health"))[1]:
      await asyncio.sleep(0.1)
    hows = [(await proxied.ask())[0] for _ in range(2)]
    assert hows == ["taught"] * 2
    status, text = await proxied.get("/health")
    assert json.loads(text) == {
      "status": "ok",
      "upstream": {"state": "up"},
      "teacher": {"state": "up", "circuit": "closed"},
      "in_flight": 0,
    }

  with upstream() as up, teacher(latency_s=60) as stub:
    run(
      check,
      up,
      stub,
      teach_deadline_s=5.0,
      breaker_failures=2,
      breaker_open_s=4.0,
    )
  assert len(stub.calls) == 4


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
def test_what_is_no_teaching_teaches_nothing(words):
  async def check(proxied):
    # More often than the breaker lets a failing teacher fail: it is well.
    for _ in range(3):
      assert await proxied.ask() == ("alone_bad_teaching", "re ALONE")

  with upstream() as up, teacher(words) as teach:
    run(check, up, teach, breaker_failures=2)
  assert len(teach.calls) == 3


@pytest.mark.parametrize("plan", ["", " ", "<think></think>"])
def test_a_student_without_a_plan_is_taught_all_the_same(plan):
  def answer(messages):
    first = messages[-1]["content"].split()[0]
    return plan if first == "PROBE" else f"re {first}"

  async def check(proxied):
    assert await proxied.ask() == ("taught", "re GUIDED")

  with upstream(answer) as up, teacher() as teach:
    run(check, up, teach)
  assert contents(teach) == [f"TEACH 1+1? FROM {NO_PROBE}"]


def test_a_refused_question_is_not_the_teachers_fault():
  def answer(messages):
    if "long" in messages[-1]["content"]:
      return web.json_response({"error": {"message": "too long"}}, status=400)
    return TEACHING

  async def check(proxied):
    for _ in range(3):
      assert (await proxied.ask("long"))[0] == "alone_down"
    assert (await proxied.ask("short"))[0] == "taught"

  with upstream() as up, StubServer(answer) as teach:
    run(check, up, teach, breaker_failures=1)


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
def test_the_teacher_is_killed_under_load_and_no_request_fails(
  mortal_teacher, stream
):
  process, url = mortal_teacher
  seen = collections.Counter()

  async def one(proxied):
    if not stream:
      return await proxied.ask()
    answer = await proxied.client.chat.completions.create(
      model="any",
      messages=[{"role": "user", "content": "1+1?"}],
      stream=True,
    )
    how = answer.response.headers["x-atlas-teaching"]
    pieces = [c.choices[0].delta.content or "" async for c in answer]
    return how, "".join(pieces)

  async def client(proxied):
    # Until it has met both a living and a dead teacher, and then some.
    for _ in range(6):
      how, text = await one(proxied)
      expected = "re GUIDED" if how == "taught" else "re ALONE"
      assert text == expected
      seen[how] += 1
      if seen["taught"] == 2 * CLIENTS and process.poll() is None:
        process.kill()  # SIGKILL

  async def check(proxied):
    await asyncio.gather(*(client(proxied) for _ in range(CLIENTS)))
    counts = await proxied.counts()
    assert counts == dict(seen)
    assert sum(seen.values()) == 6 * CLIENTS
    assert set(seen) <= {"taught", "alone_down", "alone_late"}
    assert seen["taught"] >= 2 * CLIENTS and seen["alone_down"] > CLIENTS
    health = json.loads((await proxied.get("/health"))[1])
    assert health["status"] == "degraded"
    assert health["teacher"]["state"] == "down"

  with upstream(latency_s=0.02) as up:
    run(check, up, url, teach_deadline_s=60.0)
