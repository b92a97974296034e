"""The Responses API, through the stock client."""

import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from tests.online.agents.asked import ask, opened
from tests.online.agents.sdk import response_reply
from tests.online.agents.serving import Serving

KEY = "sk-very-secret"


def reply_to(answer, path="/v1", environ=None, **keys):
  environ = {"OPENAI_API_KEY": KEY} | (environ or {})
  with Serving(answer) as server:
    keys = {"model": "m", "base_url": server.url + path} | keys
    return ask(opened("responses", keys, environ=environ), "q"), server.seen


def test_what_is_sent_and_read():
  reply, (seen,) = reply_to(
    lambda _: response_reply("yes"),
    instructions="be brief",
    max_output_tokens=9,
    temperature=0.0,
    extra={"tools": [{"type": "web_search"}]},
  )
  assert (reply.status, reply.text) == ("ok", "yes")
  assert (reply.prompt_tokens, reply.completion_tokens) == (11, 5)
  assert seen.path == "/v1/responses"
  assert seen.headers["Authorization"] == f"Bearer {KEY}"
  assert seen.json == {
    "model": "m",
    "input": "q",
    "instructions": "be brief",
    "max_output_tokens": 9,
    "temperature": 0.0,
    "tools": [{"type": "web_search"}],
  }


def test_an_address_with_the_path_of_its_api():
  path = "/v1/responses"
  reply, (seen,) = reply_to(lambda _: response_reply("yes"), path=path)
  assert (reply.text, seen.path) == ("yes", path)


def test_headers_query_and_body_go_as_the_stock_client_takes_them():
  extra = {"extra_headers": {"X-A": "b"}, "extra_query": {"api-version": "3"}}
  extra |= {"extra_body": {"seed": 1}, "reasoning": {"effort": "low"}}
  _, (seen,) = reply_to(
    lambda _: response_reply("yes"), extra=extra, instructions="a ${B} {prompt}"
  )
  assert seen.headers["X-A"] == "b" and seen.query == {"api-version": "3"}
  assert seen.json == {
    "model": "m",
    "input": "q",
    "instructions": "a ${B} {prompt}",
    "seed": 1,
    "reasoning": {"effort": "low"},
  }


def test_a_server_without_a_key_does_not_get_one():
  _, (seen,) = reply_to(lambda _: response_reply("yes"), api_key_env=None)
  assert KEY not in str(seen.headers)


def failed(code):
  error = {"code": code, "message": "it broke"}
  return response_reply(None, status="failed", error=error)


def incomplete(reason):
  details = {"reason": reason}
  return response_reply("half", status="incomplete", incomplete_details=details)


def refusal():
  content = [{"type": "refusal", "refusal": "I will not"}]
  message = response_reply(None)["output"][0] | {"content": content}
  return response_reply(None, output=[message])


def rude(status):
  error = {"error": {"message": f"wrong key {KEY}"}}
  return lambda: web.json_response(error, status=status)


@pytest.mark.parametrize(
  ("answer", "status", "text", "error"),
  [
    (lambda: incomplete("max_output_tokens"), "truncated", "half", None),
    (lambda: incomplete("content_filter"), "error", None, "content_filter"),
    (refusal, "error", None, "refused: I will not"),
    (lambda: response_reply(None), "empty", None, "an answer without text"),
    (lambda: response_reply(None, output=["x"]), "error", None, "no response"),
    (
      lambda: response_reply(None, output=[{"type": "message"}]),
      *("error", None, "no response"),
    ),
    (
      lambda: web.Response(text="[" * 100_000, content_type="application/json"),
      *("error", None, "broken JSON"),
    ),
    (
      lambda: failed("invalid_prompt"),
      "error",
      None,
      '"invalid_prompt", "message": "it broke"',
    ),
    (lambda: response_reply("x", status="queued"), "error", None, "'queued'"),
    (lambda: {"choices": []}, "error", None, "is no response"),
    (lambda: web.Response(text="<html>"), "error", None, "error: <html>"),
    (
      lambda: web.Response(text='{"ou', content_type="application/json"),
      *("error", None, ""),
    ),
    (rude(401), "error", None, "HTTP 401: "),
    (rude(500), "error", None, "HTTP 500: "),
  ],
)
def test_statuses(answer, status, text, error):
  reply, _ = reply_to(lambda _: answer())
  assert (reply.status, reply.text) == (status, text)
  assert (error or "") in (reply.error or "")
  assert KEY not in repr(reply)


def test_a_secret_in_the_options_comes_from_the_environment():
  reply, (seen,) = reply_to(
    lambda _: response_reply("yes"),
    environ={"KEY": "sk-of-the-header"},
    extra={"extra_headers": {"X-Api-Key": "${KEY}"}},
  )
  assert reply.text == "yes"
  assert seen.headers["X-Api-Key"] == "sk-of-the-header"


def test_the_environment_may_say_where_it_is():
  environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
  agent = opened("responses", {"model": "m"}, environ=environ)
  assert agent.name == "responses m at http://127.0.0.1:9/v1/"
  environ["OPENAI_BASE_URL"] = "http://me:very-secret@127.0.0.1:9/v1"
  with pytest.raises(ConfigError, match="OPENAI_BASE_URL must hold no") as told:
    opened("responses", {"model": "m"}, environ=environ)
  assert "very-secret" not in str(told.value)
