"""What is sent to chat models, and what is made of what they say."""

import asyncio
import json
import logging
import time

import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from atlas_jax.online.calls.ledger import Caps
from tests.hostile_server import Hostile, said
from tests.online import scripted
from tests.online.opened import Run, ask, request
from tests.online.stub_server import StubServer


def test_what_is_sent_and_what_comes_back():
  run = Run()
  with StubServer(lambda m: "three little words") as stub:
    model = run.open(
      url=stub.url, extra={"top_p": 0.5}, price_in=1.0, price_out=4.0
    )
    (reply,) = ask(model, request(seed=7))
    (call,) = stub.calls
  assert call.body == {
    "model": "stub",  # asked from /v1/models
    "messages": [{"role": "user", "content": "hi you"}],
    "max_tokens": 9,
    "temperature": 0.0,
    "seed": 7,
    "top_p": 0.5,
  }
  assert "Authorization" not in call.headers
  assert (reply.status, reply.text) == ("ok", "three little words")
  assert (reply.prompt_tokens, reply.completion_tokens) == (2, 3)
  assert reply.seconds > 0
  spent = run.ledger.spent
  # 2 * 1 + 3 * 4 per million.
  assert (spent.tokens, spent.dollars) == (5, pytest.approx(14e-6))
  (line,) = run.record.costs()
  assert (line["role"], line["model"]) == ("r", "stub")


def test_extra_is_a_part_of_the_bound():
  # 128 + 12 for the role + 8 + 6 bytes + 9 to answer = 163, and extra.
  extra = {"response_format": {"schema": "d " * 200}}
  room = 163 + len(json.dumps(extra))
  for tokens, sent in ((room, 1), (room - 1, 0)):
    run = Run(Caps(tokens=tokens))
    with StubServer(lambda m: "x") as stub:
      (reply,) = ask(run.open(url=stub.url, extra=extra), request())
      assert len(stub.calls) == sent, reply


@pytest.mark.parametrize("end", ["\r", "\n", "\x00"])
def test_a_key_that_no_header_can_carry_is_refused_at_once(end):
  run = Run(environ={"MY_KEY": f"sk-123456789{end}"})
  with pytest.raises(ConfigError, match="MY_KEY holds a line break") as error:
    run.open(url="http://h", api_key_env="MY_KEY")
  assert str(error.value).startswith("config.student.api_key_env: ")
  assert "sk-123456789" not in str(error.value)


def test_the_record_answers_equal_requests_and_no_others():
  run = Run()
  with StubServer(lambda m: "x") as stub:
    model = run.open(url=stub.url)
    base = request()
    others = [
      request("hi me"),
      request(max_tokens=8),
      request(replicate=1),
      request(seed=1),
    ]

    async def main():
      await model.ask(base)
      again = [await model.ask(r) for r in (base, request(role="other"))]
      assert len(stub.calls) == 1 and all(r.text == "x" for r in again)
      for n, other in enumerate(others, 2):
        await model.ask(other)
        assert len(stub.calls) == n
      await model.aclose()

    asyncio.run(main())
  assert run.ledger.spent.calls == 5


def test_a_caller_that_leaves_does_not_end_the_call_of_another():
  run = Run()
  with StubServer(lambda m: "x", latency_s=0.2) as stub:
    model = run.open(url=stub.url)

    async def main():
      first, second = (
        asyncio.create_task(model.ask(request())) for _ in range(2)
      )
      while not stub.calls:
        await asyncio.sleep(0.01)
      first.cancel()
      assert (await second).text == "x"
      # The last one that leaves ends it; it may have been paid.
      third = asyncio.create_task(model.ask(request("other")))
      while len(stub.calls) < 2:
        await asyncio.sleep(0.01)
      third.cancel()
      await asyncio.gather(third, return_exceptions=True)
      await model.aclose()

    asyncio.run(main())
  ledger = run.ledger
  assert (ledger.spent.calls, ledger.lost.calls) == (1, 1)
  assert ledger.open.calls == 0


def test_a_name_that_no_file_can_hold():
  with StubServer(lambda m: "x", model="half a \ud800") as stub:
    (reply,) = ask(Run().open(url=stub.url, retries=0), request())
  assert reply.status == "error" and stub.calls == []


def test_a_short_key_stays_in_the_answers():
  with StubServer(lambda m: "x = 5 and long-key") as stub:
    for key, text in (
      ("x", "x = 5 and long-key"),
      ("long-key", "x = 5 and ***"),
    ):
      run = Run(environ={"K": key})
      (reply,) = ask(run.open(url=stub.url, api_key_env="K"), request())
      assert reply.text == text


def test_without_a_count_an_answer_costs_its_bound():
  # It may have thought before it spoke, and thinking is paid.
  run = Run()
  with StubServer(lambda m: "x", usage=False) as stub:
    model = run.open(url=stub.url, price_in=0.0, price_out=1.0)
    (reply,) = ask(model, request(max_tokens=1000))
  assert reply.status == "ok" and reply.completion_tokens is None
  spent = run.ledger.spent
  assert spent.dollars == pytest.approx(1000e-6)
  assert spent.tokens == 154 + 1000


FUNCTIONS = "tests.online.scripted"


def test_what_a_function_is_called_with():
  scripted.seen.clear()
  run = Run()
  model = run.open(
    kind="callable", model=f"{FUNCTIONS}:echo", extra={"top_p": 1}
  )
  (reply,) = ask(model, request(seed=3, replicate=2))
  assert reply.text == "echo hi you" and reply.prompt_tokens is None
  sampling = {"top_p": 1, "max_tokens": 9, "temperature": 0.0}
  sampling |= {"seed": 3, "replicate": 2}
  messages = [{"role": "user", "content": "hi you"}]
  assert scripted.seen == [(messages, sampling, False)]
  # No usage is said: 154 for the prompt and 12 for extra, 9 = min(9, bytes)
  # for the answer.
  assert run.ledger.spent.tokens == 175


@pytest.mark.parametrize(
  ("name", "text", "attempts"),
  [
    ("later", "later hi you", 1),
    ("called", "called hi you", 1),
    ("flaky", "back", 2),
    ("broken", "KeyError: 'a mistake'", 1),
    ("number", "returned int", 1),
    ("exits", "SystemExit: over", 1),
    ("stops", "StopIteration", 1),
    ("gives_up", "cancelled from within", 1),
    ("halves", "not valid Unicode", 1),
    ("hangs", "no answer in 0.5 s", 1),
  ],
)
def test_what_a_function_says_or_raises(name, text, attempts):
  scripted.seen.clear()
  run, began = Run(), time.monotonic()
  retries, timeout_s = (0, 0.5) if name == "hangs" else (4, 60.0)
  model = run.open(
    kind="callable",
    model=f"{FUNCTIONS}:{name}",
    retries=retries,
    timeout_s=timeout_s,
  )
  (reply,) = ask(model, request())
  assert text in (reply.text or reply.error) and reply.ok == (
    name in ("later", "called", "flaky")
  )
  assert run.record.costs()[0]["attempts"] == attempts
  assert time.monotonic() - began < 30


def test_logs_and_errors_hold_no_key(caplog):
  caplog.set_level(logging.DEBUG)
  key = "sk-abc/def+12345"
  run = Run(environ={"MY_KEY": key, "OTHER_TOKEN": "tok-999999"})
  text = f"broke with Bearer {key} and tok-999999"
  body = {"error": {"message": text}}
  with StubServer(lambda m: web.json_response(body, status=500)) as stub:
    model = run.open(url=stub.url, api_key_env="MY_KEY", retries=1)
    (reply,) = ask(model, request())
    assert stub.calls[0].headers["Authorization"] == f"Bearer {key}"
  assert "broke with Bearer *** and ***" in reply.error
  seen = caplog.text + repr(model) + repr(reply) + repr(run.record.costs())
  assert key not in seen and "tok-999999" not in seen
  assert "again in" in caplog.text


def test_seconds_are_without_the_wait_for_a_turn():
  run = Run()
  with StubServer(lambda m: "x", latency_s=0.3) as stub:
    model = run.open(url=stub.url, concurrency=1)
    began = time.monotonic()
    replies = ask(model, *(request(seed=i) for i in range(5)))
    wall = time.monotonic() - began
  assert 1.5 <= sum(r.seconds for r in replies) <= wall


def test_a_key_in_place_of_a_name_is_hidden():
  key = "sk-0123456789abcdef"

  run = Run(environ={"K": key})
  with Hostile(
    lambda asked: said(
      {"data": [{"id": asked.headers["Authorization"]}]}
      if asked.path.endswith("/models")
      else {"choices": [{"message": {"content": "4"}}]}
    )(asked)
  ) as server:
    model = run.open(url=server.url, model=None, api_key_env="K")
    (reply,) = ask(model, request())
  assert reply.text == "4" and model.name == "Bearer ***"
  # The server is asked for the name that it said.
  assert json.loads(server.requests[-1][3])["model"] == f"Bearer {key}"
