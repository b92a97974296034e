"""What becomes of failed attempts, and how fast a server is asked."""

import asyncio
import socket
import time

import pytest
from aiohttp import web

from atlas_jax.online.calls.calls import ModelRefused
from atlas_jax.online.calls.ledger import BudgetSpent, Caps
from tests.online.opened import BOTH_KINDS, Run, ask, at, request
from tests.online.stub_server import Faults, StubServer


@pytest.mark.parametrize(
  "code, calls",
  [(400, 1), (422, 1), (408, 2), (409, 2), (425, 2), (429, 2), (503, 2)],
)
def test_which_statuses_are_tried_again(code, calls):
  refusal = {"error": {"message": "because"}}
  with StubServer(lambda m: web.json_response(refusal, status=code)) as stub:
    model = Run().open(url=stub.url, retries=1)
    (reply,) = ask(model, request())
    assert len(stub.calls) == calls
  assert reply.status == ("timeout" if code == 408 else "error")
  assert f"HTTP {code}" in reply.error and "because" in reply.error


@BOTH_KINDS
@pytest.mark.parametrize(
  "fault, lost",
  # A refusal costs nothing; what may have been generated is lost.
  [("429", 0), ("500", 0), ("empty", 2), ("broken", 2), ("reset", 2)],
)
def test_faults_are_tried_again_by_us_alone_and_cost(kind, fault, lost):
  run, faults = Run(), Faults(0, 1.0, (fault,), in_a_row=2)
  with StubServer(lambda m: "x", faults=faults) as stub:
    (reply,) = ask(at(run, kind, stub, retries=4), request())
    assert [call.fault for call in stub.calls] == [fault, fault, None]
  assert (reply.status, reply.text) == ("ok", "x")
  ledger = run.ledger
  assert (ledger.spent.calls, ledger.lost.calls) == (3 - lost, lost)
  assert ledger.spent.tokens == 3


def test_the_cap_on_minutes_ends_a_call_under_way():
  run = Run(Caps(minutes=0.5 / 60))
  with StubServer(lambda m: "x", answers=0) as stub:
    replies = ask(run.open(url=stub.url), request(), request("two"))
  assert [type(r) for r in replies] == [BudgetSpent] * 2
  assert run.ledger.lost.calls == len(stub.calls)


def test_the_cap_on_minutes_holds_for_a_server_without_a_word():
  listener = socket.create_server(("127.0.0.1", 0))  # it never answers
  url = f"http://127.0.0.1:{listener.getsockname()[1]}"
  began = time.monotonic()
  with listener:
    model = Run(Caps(minutes=0.5 / 60)).open(url=url)
    ends = ask(model, request(), request("two"))
  assert [type(e) for e in ends] == [BudgetSpent] * 2
  assert time.monotonic() - began < 20


def test_a_run_without_minutes_still_learns_the_name_of_its_answers():
  run = Run()
  with StubServer(lambda m: "x") as stub:
    ask(run.open(url=stub.url), request())
    run.ledger = run.record.ledger(Caps(minutes=0.0))
    known, new = ask(run.open(url=stub.url), request(), request("new"))
  assert known.text == "x" and type(new) is BudgetSpent


def test_a_server_that_is_gone():
  run = Run()
  model = run.open(url="http://127.0.0.1:9", model="m", retries=1)
  (reply,) = ask(model, request())
  assert reply.status == "error" and "no connection" in reply.error
  assert run.ledger.lost.calls == 0
  nameless = run.open(url="http://127.0.0.1:9", retries=0)
  assert ask(nameless, request())[0].status == "error"


@BOTH_KINDS
@pytest.mark.parametrize("hopeless", ["key", "model"])
def test_what_cannot_succeed_is_told_once(kind, hopeless):
  run = Run(environ={"MY_KEY": "k-123456789"})
  with StubServer(lambda m: "x") as stub:
    named = {"model": "stub"} if kind == "url" else {}
    model = at(run, kind, stub, api_key_env="MY_KEY", concurrency=2, **named)
    stub.api_key = "other" if hopeless == "key" else None
    stub.model = "stub" if hopeless == "key" else "unheard"
    ends = ask(model, *[request(f"q {i}") for i in range(50)])
    assert len(stub.calls) <= 2
  assert {type(e) for e in ends} == {ModelRefused}
  (text,) = {str(e) for e in ends[2:]}
  assert text.startswith("config.student: the server of ")
  assert "MY_KEY" in text and "k-123456789" not in text
  # The server repeats what it was sent.
  assert hopeless == "model" or "wrong key Bearer ***" in text


def test_a_403_after_an_answer_is_about_one_request():
  def answer(messages):
    if "rude" in messages[0]["content"]:
      return web.json_response({"error": "flagged"}, status=403)
    return "fine"

  with StubServer(answer) as stub:
    model = Run().open(url=stub.url, concurrency=1)
    replies = ask(model, request(), request("rude"), request("kind"))
  assert [r.status for r in replies] == ["ok", "error", "ok"]


@BOTH_KINDS
@pytest.mark.parametrize("retries", [0, 4])
def test_retry_after_holds_for_the_endpoint(kind, retries):
  faults = Faults(0, 1.0, ("429",), in_a_row=1, retry_after="1")
  with StubServer(lambda m: "x", faults=faults) as stub:
    model = at(Run(), kind, stub, concurrency=1, retries=retries)
    replies = ask(model, request("a"), request("b"))
    at_s = [call.at for call in stub.calls]
  assert [r.ok for r in replies] == [retries > 0] * 2
  assert len(at_s) == (4 if retries else 2)
  # The refusal of a makes b wait too, also where it is the last attempt.
  assert at_s[1] - at_s[0] >= 1.0
  assert not retries or at_s[3] - at_s[0] >= 2.0


GOOGLE = {
  "error": {
    "code": 429,
    "status": "RESOURCE_EXHAUSTED",
    "details": [
      {
        "@type": "type.googleapis.com/google.rpc.RetryInfo",
        "retryDelay": "1.2s",
      }
    ],
  }
}


@pytest.mark.parametrize(
  ("headers", "body"),
  [({"retry-after-ms": "1200"}, {}), ({}, GOOGLE), ({}, [GOOGLE])],
)
def test_other_ways_to_ask_for_a_wait(headers, body):
  refusals = [web.json_response(body, status=429, headers=headers)]
  with StubServer(lambda m: refusals.pop() if refusals else "x") as stub:
    (reply,) = ask(Run().open(url=stub.url, model="stub"), request())
    first, second = (call.at for call in stub.calls)
  assert reply.ok and 1.2 <= second - first < 20


def test_models_that_share_a_server_share_its_limits():
  run = Run()
  with StubServer(lambda m: "x", latency_s=0.05) as stub:
    wide = run.open(url=stub.url, model="stub", concurrency=50)
    narrow = run.open(
      url=stub.url, model="stub", concurrency=3, extra={"top_k": 1}
    )

    async def main():
      await asyncio.gather(
        *[m.ask(request(f"{i}")) for i in range(9) for m in (wide, narrow)]
      )
      await wide.aclose()
      await narrow.aclose()

    asyncio.run(main())
    assert len(stub.calls) == 18 and stub.most_at_once == 3


def test_a_rate_holds():
  with StubServer(lambda m: "x", latency_s=2.0) as stub:
    model = Run().open(url=stub.url, requests_per_minute=600.0)
    began = time.monotonic()  # an arrival may be late, and none is early
    ask(model, *[request(f"hi no{i}") for i in range(6)])
    # One in 0.1 s; the first goes at once.
    assert stub.calls[-1].at - began >= 0.5 - 0.01
