"""What becomes of failed attempts, and how fast a server is asked."""

import asyncio
import socket
import time

import pytest
from aiohttp import web

from atlas_jax.online.calls.calls import ModelRefused
from atlas_jax.online.calls.ledger import BudgetSpent, Caps
from tests.online.opened import Run, ask, request
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


def test_what_a_failure_costs():
  # A refusal costs nothing; what may have been generated is lost.
  for kind, spent, lost in (("500", 1, 0), ("broken", 0, 1), ("reset", 0, 1)):
    run = Run()
    with StubServer(lambda m: "x", faults=Faults(0, 1.0, (kind,))) as stub:
      (reply,) = ask(run.open(url=stub.url, retries=0), request())
    assert reply.status == "error"
    ledger = run.ledger
    assert (ledger.spent.calls, ledger.lost.calls) == (spent, lost)
    assert ledger.spent.tokens == 0


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


@pytest.mark.parametrize("hopeless", ["key", "model"])
def test_what_cannot_succeed_is_told_once(hopeless):
  run = Run(environ={"MY_KEY": "k-123456789"})
  with StubServer(lambda m: "x") as stub:
    stub.api_key = "other" if hopeless == "key" else None
    model = run.open(
      url=stub.url,
      model="unheard" if hopeless == "model" else "stub",
      api_key_env="MY_KEY",
      concurrency=2,
    )
    ends = ask(model, *[request(f"q {i}") for i in range(50)])
    assert len(stub.calls) <= 2
  assert {type(e) for e in ends} == {ModelRefused}
  (text,) = {str(e) for e in ends[2:]}
  assert text.startswith("config.student: the server of ")
  assert "MY_KEY" in text and "k-123456789" not in text


def test_a_403_after_an_answer_is_about_one_request():
  def answer(messages):
    if "rude" in messages[0]["content"]:
      return web.json_response({"error": "flagged"}, status=403)
    return "fine"

  with StubServer(answer) as stub:
    model = Run().open(url=stub.url, concurrency=1)
    replies = ask(model, request(), request("rude"), request("kind"))
  assert [r.status for r in replies] == ["ok", "error", "ok"]


def test_retry_after_holds_for_the_endpoint():
  faults = Faults(0, 1.0, ("429",), in_a_row=1, retry_after="1")
  with StubServer(lambda m: "x", faults=faults) as stub:
    model = Run().open(url=stub.url, concurrency=1)
    replies = ask(model, request("a"), request("b"))
    at = [call.at for call in stub.calls]
  assert [r.status for r in replies] == ["ok", "ok"] and len(at) == 4
  # The first refusal makes b wait too.
  assert at[1] - at[0] >= 1.0 and at[3] - at[0] >= 2.0


def test_retry_after_of_the_last_attempt_holds_too():
  faults = Faults(0, 1.0, ("429",), in_a_row=1, retry_after="1")
  with StubServer(lambda m: "x", faults=faults) as stub:
    model = Run().open(url=stub.url, concurrency=1, retries=0)
    replies = ask(model, request("a"), request("b"))
    at = [call.at for call in stub.calls]
  assert [r.status for r in replies] == ["error", "error"]
  assert at[1] - at[0] >= 1.0


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
