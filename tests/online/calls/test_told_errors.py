"""Errors that come where answers do: never an answer, whoever is asked."""

import json

import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from tests.online.agents import echoes
from tests.online.agents.asked import ask as ask_agent
from tests.online.agents.asked import by_command, by_http, opened
from tests.online.agents.serving import Serving
from tests.online.opened import Run, ask, at, request
from tests.online.stub_server import StubServer

# Of each kind: what stands where an answer should.
TEXTS = [
  "API Error: Request timed out.",
  'API Error: 529 {"type":"error","error":{"type":"overloaded_error"}}',
  "API Error (Connection error.)",
  "Error code: 500 - {'error': {'message': '42'}}",
  "Error: 503",
  "HTTP Error 503: Service Unavailable",
  "HTTP/1.1 502 Bad Gateway",
  "504 Gateway Timeout",
  "429 Too Many Requests",
  "Internal Server Error",
  "upstream connect error or disconnect/reset before headers. reset reason: 42",
  "no healthy upstream",
  "Error: rate limit exceeded, try again in 42 s",
  "ERROR: the model is not loaded",
  "Error: connect ECONNREFUSED 127.0.0.1:11434",
  'error: {"code": 42}',
  "curl: (7) Failed to connect to localhost port 42",
  "Traceback (most recent call last):\n  File 'x', line 42",
  "litellm.RateLimitError: 42",
  "openai.APIConnectionError: Connection error.",
  "APITimeoutError: Request timed out.",
  "<!DOCTYPE html><html><body>42</body></html>",
  "Claude AI usage limit reached|1749924000",
  "httpx.ReadTimeout: 42",
  "An error occurred: 42",
  "Error: Request failed with status code 429",
  "\n<HTML>\n<head><title>502</title></head></html>",
  'event: error\ndata: {"error": "overloaded"}\n\n',
  'data: {"error": {"message": "42"}}\n\n',
]
JSON = [
  {"is_error": True, "result": "42"},
  {"type": "result", "subtype": "error_max_turns", "is_error": False},
  {"type": "error", "error": {"message": "42"}},
  {"status": "error", "answer": "42"},
  {"status": "FAILED", "answer": "42"},
  {"status": 500, "title": "42"},
  {"success": False, "answer": "42"},
  {"ok": False},
  {"error": "too many requests: 42"},
  {"error": "429 Too Many Requests"},
  {"error": "busy", "answer": ""},
  {"jsonrpc": "2.0", "id": 1, "result": None, "error": {"code": -32603}},
  {"err": "busy"},
  {"error": {"code": 500, "message": "42"}},
  {"error": ["42"]},
  {"error": True, "message": "42"},
  {"errors": [{"message": "42"}]},
  {"detail": "Not Found"},
  {"detail": [{"loc": ["body"], "msg": "42"}]},
  {"code": 503, "message": "42"},
  {"code": "Throttling", "message": "42"},
  {"message": "Internal server error"},
  {"errorMessage": "over after 42 s", "errorType": "Timeout"},
  {"object": "error", "message": "42", "code": 500},
  {"type": "overloaded_error", "message": "42"},
  [{"error": {"code": 503, "message": "42"}}],
]
SAID = [*TEXTS, *map(json.dumps, JSON)]
# Honest answers that speak of errors.
HONEST = [
  "The error is 5 cm",
  "Error analysis: the sum is off by 2, so the answer is 42",
  "Error: 5 cm",
  "Error: 500 cm",
  "Absolute error: about 5 cm",
  "error: you forgot to carry; <solution>42</solution>",
  "Error: the sign was wrong. The answer is 42",
  "500 apples",
  "404",
  "4 failed, 38 passed: 42",
  "I would fail the student. 42",
  "API errors come at 42 a day",
  "ValueError: 42",
  "Error: none",
  "Error bars: 5",
  "Unauthorized entries: 12",
  "Rate limit: 5",
  "Fatal: 3 of 10",
  "Connection errors: 5",
  "500 internal combustion engines",
  '{"error": "5 cm"}',
  '{"type": "error_bar", "value": 5}',
  '{"errors": 3}',
  '{"message": "42"}',
  '{"code": 42}',
  '{"answer": 42, "error": 0.5}',
  '{"answer": "42", "error": null}',
  '{"answer": "42", "error": "the student forgot to carry"}',
  '{"result": "42", "is_error": false, "status": "success", "type": "result"}',
  '{"error": 0.05}',
  '{"code": "ABC", "answer": "42"}',
  "[1, 2]",
  "{not JSON",
]


def never(reply):
  # LiteLLM takes some for a timeout by their words.
  assert reply.status in ("error", "timeout") and reply.text is None, reply
  assert reply.error


def prints(text, **keys):
  """The reply of a command that prints a text."""
  return by_command(f"import sys; sys.stdout.write({text!r})", **keys)


SAME = {"target": f"{echoes.__file__}:same"}


def by_model(kind, answer):
  """The reply where this is the content of a completion, or the body."""
  run = Run()
  with StubServer(lambda m: answer) as stub:
    (reply,) = ask(at(run, kind, stub, retries=0), request(max_tokens=99))
    assert len(stub.calls) == 1
  # A completion was generated.
  assert run.ledger.spent.tokens > 0 or not isinstance(answer, str)
  return reply


def as_body(said):
  return web.Response(text=said)


@pytest.mark.parametrize("said", SAID)
def test_as_what_a_server_or_an_http_agent_says(said):
  for answer in (said, as_body(said)):
    reply = by_model("url", answer)
    assert reply.status == "error"
    never(reply)
  for reply, keys in (
    (as_body(said), {}),
    (as_body(said), {"answer": "answer"}),
    ({"out": said}, {"answer": "out"}),
  ):
    never(by_http(reply, **keys))


@pytest.mark.parametrize("said", SAID[::2])
def test_through_litellm(said):
  never(by_model("litellm", said))
  never(by_model("litellm", as_body(said)))


@pytest.mark.parametrize("text", HONEST)
def test_honest_answers_that_speak_of_errors(text):
  for reply in (by_model("url", text), by_http(as_body(text))):
    assert (reply.status, reply.text) == ("ok", text)


@pytest.mark.parametrize("said", [*TEXTS[::3], *map(json.dumps, JSON[::3])])
def test_as_what_a_command_prints(said):
  # A number in an error is no answer.
  for keys in ({}, {"output_regex": r"\d*"}, {"output_path": "answer"}):
    never(prints(said, **keys))


def test_an_answer_may_stand_where_errors_do():
  reply = {"message": "yes", "code": "ABCD", "detail": "no"}
  for path in ("message", "detail"):
    said = prints(json.dumps(reply), output_path=path)
    assert said.text == reply[path]
    assert by_http(reply, answer=path).text == reply[path]


def test_as_the_last_of_a_command_s_lines_of_json():
  lines = [{"type": "system"}, {"type": "result", "is_error": True}]
  text = "\n".join(map(json.dumps, lines)) + "\n"
  never(prints(text))


@pytest.mark.parametrize("own_process", [False, True])
def test_as_what_a_function_returns(own_process):
  keys = SAME | {"own_process": own_process}
  # The same rules read what a process of its own says: some of each suffice.
  said, honest = (x[:: 9 if own_process else 1] for x in (SAID, HONEST))
  for reply in ask_agent(opened("python", keys), *said):
    never(reply)
  replies = ask_agent(opened("python", keys), *honest)
  assert [r.text for r in replies] == honest


@pytest.mark.parametrize("said", JSON)
def test_as_a_response(said):
  pytest.importorskip("openai")
  with Serving(lambda _: said) as server:
    keys = {"model": "m", "base_url": server.url, "api_key_env": None}
    never(ask_agent(opened("responses", keys), "q"))


@pytest.mark.parametrize("path", ["state.bad", 'state["bad"]'])
def test_a_failure_path_says_what_a_failure_is(path):
  paths = {"answer": "out", "failure_path": path}
  for bad in ("why", {"a": 1}, True, 3):
    reply = {"out": "42", "state": {"bad": bad}}
    never(by_http(reply, **paths))
    never(by_http(reply, failure_path=path))
    never(prints(json.dumps(reply), output_path="out", failure_path=path))
  for state in ({}, {"bad": None}, {"bad": False}, {"bad": ""}, None):
    assert by_http({"out": "42", "state": state}, **paths).text == "42"


def test_a_failure_regex_says_what_a_failure_is():
  common = {"failure_regex": r"(?i)i am (?:busy|tired)"}
  agent = opened("python", SAME, **common)
  bad, good = ask_agent(agent, "Sorry, I am BUSY: 42", "I am well: 42")
  never(bad)
  assert "failure_regex matches 'I am BUSY'" in bad.error and good.ok
  # Of a command it is searched in all that it prints.
  never(prints("I am tired\n42", output_regex=r"\d+", common=common))


def test_a_failure_regex_without_an_end_has_the_deadline():
  agent = opened("python", SAME, failure_regex=r"(a|aa)+$b", timeout_s=1.0)
  reply = ask_agent(agent, "a" * 40)
  assert reply.status in ("timeout", "error") and reply.text is None


def test_what_the_config_refuses():
  keys = {"target": "m:f"}
  with pytest.raises(ConfigError, match=r"config\.failure_regex='\('"):
    opened("python", keys, failure_regex="(")
  with pytest.raises(ConfigError, match=r"config\.cli\.failure_path needs out"):
    prints("x", failure_path="a")
  with pytest.raises(ConfigError, match=r"failure_path='\.'"):
    prints("x", output_path="a", failure_path=".")
