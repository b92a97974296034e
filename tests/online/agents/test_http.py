"""How replies over HTTP are read."""

import pytest
from aiohttp import web

from atlas_jax.online.calls.ledger import BudgetSpent, Caps, Ledger
from tests.online.agents.asked import ask, by_http, http_agent, opened
from tests.online.agents.serving import Serving

KEY = "sk-environment-secret"
PATHS = {
  "answer": "out[0].text",
  "finish_reason": "why",
  "prompt_tokens": "usage.in",
  "completion_tokens": "usage.out",
}


def reply_to(answer, **keys):
  return by_http(answer, **PATHS, **keys)


def said(text, why="stop", **more):
  return lambda _: {"out": [{"text": text}], "why": why, **more}


def test_text_and_tokens():
  reply = reply_to(said("yes", usage={"in": 7, "out": 2}))
  assert (reply.status, reply.text) == ("ok", "yes")
  assert (reply.prompt_tokens, reply.completion_tokens) == (7, 2)
  # No counts, or more than a record can hold.
  for usage in ({"in": "many"}, {"in": -1, "out": 10**30}):
    odd = reply_to(said("yes", usage=usage))
    assert (odd.prompt_tokens, odd.completion_tokens) == (None, None)


@pytest.mark.parametrize(
  ("text", "why", "status", "error"),
  [
    # What else ends an answer: ../calls/test_chat_replies.py.
    ("half of", "length", "truncated", None),
    ("no", "content_filter", "error", "it ended with 'content_filter'"),
    (None, "length", "truncated", None),
    ("no", 7, "ok", None),
    (None, 7, "empty", "an answer without text"),
    ("yes", None, "ok", None),
    (None, "stop", "empty", "an answer without text"),
    (" \n", "stop", "empty", "an answer without text"),
    (42, "stop", "ok", None),
    ({"a": 1}, "stop", "error", "{'a': 1} is no text"),
    ("\ud800", "stop", "error", "the answer is not valid Unicode"),
  ],
)
def test_statuses(text, why, status, error):
  reply = reply_to(said(text, why))
  assert reply.status == status
  assert (error or "") in (reply.error or "")
  # An error is never an answer; who reads an answer finds a text.
  assert (reply.text is not None) == (status in ("ok", "truncated"))


@pytest.mark.parametrize(
  ("response", "error"),
  [
    ({"body": b""}, "HTTP 200 with an empty body"),
    (
      {"text": '{"out": [{"te', "content_type": "application/json"},
      "HTTP 200, 13 bytes of application/json that are not valid JSON",
    ),
    (
      {"text": "[" * 100_000, "content_type": "application/json"},
      "100000 bytes of application/json that are not valid JSON",
    ),
    ({"body": '{"out": "ö"}'.encode("utf-16")}, "26 bytes, is not UTF-8"),
    # Valid JSON, deeper than a description of it can go.
    ({"text": '{"a":' * 400 + "1" + "}" * 400}, "has no 'out'"),
    ({"text": "a word"}, "6 bytes of text/plain that are not valid JSON"),
    ({"text": '{"fault": "quota"}'}, "{'fault': 'quota'} has no 'out'"),
    ({"status": 404, "text": "x" * 999}, "HTTP 404: " + "x" * 300),
  ],
)
def test_replies_that_are_no_answer(response, error):
  reply = reply_to(lambda _: web.Response(**response))
  assert (reply.status, reply.text) == ("error", None)
  assert error in reply.error and len(reply.error) <= 600


@pytest.mark.parametrize("out", [{"out": [{"text": None}]}, {}])
def test_an_error_in_place_of_an_answer_is_a_failure(out):
  error = {"code": 7, "message": f"quota of {KEY} exceeded"}
  with Serving(lambda _: out | {"error": error}) as server:
    keys = http_agent(server.url, **PATHS)
    agent = opened("http", keys, environ={"A_KEY": KEY}, retries=1)
    reply = ask(agent, "q")
  assert (reply.status, len(server.seen)) == ("error", 2)
  assert reply.error == (
    'HTTP 200 with an error: {"code": 7, "message": "quota of *** exceeded"}'
  )
  assert reply_to(said("yes", error="a warning")).status == "ok"
  assert reply_to(said(None, error=None)).status == "empty"


def test_a_call_that_fails_has_its_price():
  ledger = Ledger(Caps(dollars=0.25))
  with Serving(lambda _: web.Response(status=404)) as server:
    keys = http_agent(server.url, **PATHS)
    agent = opened("http", keys, ledger=ledger, dollars=0.1)
    with pytest.raises(BudgetSpent):
      ask(agent, "a", "b", "c")
  assert len(server.seen) == 2
  assert ledger.spent.dollars == pytest.approx(0.2)


def test_a_total_tells_of_hidden_thinking():
  usage = {"in": 2, "out": 2, "all": 523}
  reply = reply_to(said("yes", usage=usage), total_tokens="usage.all")
  assert (reply.prompt_tokens, reply.completion_tokens) == (2, 521)
