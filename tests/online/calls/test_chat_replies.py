"""How a chat completion says that it ended, what it says, and what it used."""

import json

import pytest
from aiohttp import web

from tests.online.opened import Run, ask, request
from tests.online.stub_server import StubServer


def says(content="42", reason="stop", usage=None, **more):
  choice = {"message": {"role": "assistant", "content": content} | more}
  body = {"choices": [choice | {"finish_reason": reason}]}
  body |= {} if usage is None else {"usage": usage}
  return StubServer(lambda _: web.json_response(body))


def reply_to(stub, *, retries=2, max_tokens=9, **config):
  """(reply, calls, the run)."""
  run = Run()
  with stub:
    model = run.open(url=stub.url, model="stub", retries=retries, **config)
    stub_calls = stub.calls
    (reply,) = ask(model, request(max_tokens=max_tokens))
  return reply, len(stub_calls), run


ENDED = (
  *(None, "", "stop", "STOP", "Stop", "end", "COMPLETE", "eos_token", "EOS"),
  *("end_turn", "FINISH_REASON_STOP", "stop-sequence", "done", " stop "),
  *("FinishReason.STOP", "OTHER", "something new", "tool_calls"),
)
CUT = (
  *("length", "LENGTH", "max_tokens", "MAX_TOKENS", "max_output_tokens"),
  *("FINISH_REASON_MAX_TOKENS", "model_length", "Max-Tokens"),
)
DECLINED = (
  *("content_filter", "SAFETY", "RECITATION", "refusal", "BLOCKLIST"),
  *("PROHIBITED_CONTENT", "content-filtered", "ERROR_TOXIC", "sensitive"),
)
BROKEN = (
  *("error", "ERROR", "overloaded", "abort", "aborted", "cancelled"),
  *("MALFORMED_RESPONSE", "server_error", "timeout"),
  "insufficient_system_resource",
)
REASONS = {
  # (status, text, calls) where one attempt may follow
  **dict.fromkeys(ENDED, ("ok", "42", 1)),
  **dict.fromkeys(CUT, ("truncated", "42", 1)),
  **dict.fromkeys(DECLINED, ("error", None, 1)),
  **dict.fromkeys(BROKEN, ("error", None, 2)),
}


@pytest.mark.parametrize("reason", REASONS)
def test_how_an_answer_ended(reason):
  reply, calls, _ = reply_to(says(reason=reason), retries=1)
  assert (reply.status, reply.text, calls) == REASONS[reason]
  assert reply.error is None or reason in reply.error


TEXT = {"type": "text", "text": "4"}
PAIR = "half a \ud800"
SCHEMA = {"type": "invalid_request_error", "message": "top_q is unknown"}


def cut(completion_tokens) -> dict:
  usage = {"prompt_tokens": 2, "completion_tokens": completion_tokens}
  return {"reason": "length", "usage": usage}


@pytest.mark.parametrize(
  ("content", "more", "status", "text", "calls"),
  [
    ("a", {"reasoning_content": "hm"}, "ok", "a", 1),
    ("a", {"usage": {"completion_tokens": 10**30}}, "ok", "a", 1),
    ([TEXT, TEXT], {}, "ok", "44", 1),
    ([{"type": "output_text", "text": "42"}], {}, "ok", "42", 1),
    (["4", {"text": "2"}], {}, "ok", "42", 1),
    ([{"type": "thinking", "thinking": "hm"}, TEXT], {}, "ok", "4", 1),
    ([{"type": "reasoning", "text": "hm"}, TEXT], {}, "ok", "4", 1),
    ([{"type": "redacted_thinking", "data": "x"}, TEXT], {}, "ok", "4", 1),
    ([{"text": "hm", "thought": True}, TEXT], {}, "ok", "4", 1),
    (None, {"reasoning_content": "hm", **cut(9)}, "truncated", "", 1),
    # Cut early: once more, then it is the server's limit.
    ("a", cut(1), "truncated", "a", 2),
    # Nothing that a person can read: it may come yet.
    *((None, {"reason": r}, "empty", None, 3) for r in ("stop", "", "OTHER")),
    (" \n", {}, "empty", None, 3),
    ("\u200b\u2060 \ufeff\n", {}, "empty", None, 3),
    ([{"type": "thinking", "thinking": "42"}], {}, "empty", None, 3),
    (PAIR, {}, "error", None, 3),
    (None, {"refusal": "no"}, "error", None, 1),
    (None, {"refusal": PAIR}, "error", None, 1),
    # What will never be an answer is asked for twice at most.
    ("a", {"reason": ["stop"]}, "error", None, 2),
    (
      [TEXT, {"type": "image_url", "image_url": {"url": "x"}}],
      *({}, "error", None, 2),
    ),
    ([{"type": "text", "text": 7}], {}, "error", None, 2),
    ([7], {}, "error", None, 2),
    ({"text": "42"}, {}, "error", None, 2),
  ],
)
def test_how_a_message_is_read(content, more, status, text, calls):
  reply, sent, _ = reply_to(says(content, **more))
  assert (reply.status, reply.text, sent) == (status, text, calls)
  assert (reply.error is None) == (status in ("ok", "truncated"))


@pytest.mark.parametrize(
  ("body", "calls"),
  [
    # As above.
    *(('{"choices": []}', 2), ("{}", 2), ('{"choices": null}', 2), ("7", 2)),
    *(('{"choices": [{}]}', 2), ('{"choices": [null]}', 2), ("pong", 2)),
    ("<html><body>Sign in</body></html>", 2),
    (json.dumps({"error": SCHEMA}), 1),
    # These may be accidents.
    ("[" * 100_000 + "]" * 100_000, 3),
    ('{"error": %s}' % ("[" * 600 + "]" * 600), 3),
    (json.dumps({"error": PAIR}), 3),
  ],
  ids=lambda value: str(value)[:40],
)
def test_bodies_that_no_server_should_send(body, calls):
  stub = StubServer(lambda m: web.Response(text=body))
  reply, sent, run = reply_to(stub)
  assert (reply.status, reply.text, sent) == ("error", None, calls)
  assert run.ledger.lost.calls == calls
  assert "top_q" not in body or "top_q" in reply.error


def usage(prompt, completion=None, total=None, **more) -> dict:
  """In OpenAI's words."""
  names = ("prompt_tokens", "completion_tokens", "total_tokens")
  counts = zip(names, (prompt, completion, total), strict=True)
  return {name: count for name, count in counts if count is not None} | more


def thought(tokens) -> dict:
  return {"reasoning_tokens": tokens}


USAGES = [
  # (usage, prompt, completion)
  (usage(2, 2, 523), 2, 521),
  (usage(2.0, 2, 523.0), 2, 521),
  (usage("2", None, "523"), 2, 521),
  (usage(2, 9, 11), 2, 9),
  # A total that is too small, or none.
  (usage(2, 9, 3), 2, 9),
  (usage(2, 9) | {"total_tokens": None}, 2, 9),
  (usage(2, None, 523), 2, 521),
  (usage(0, 3), 0, 3),
  (usage(2, 9, completion_tokens_details=thought(500)), 2, 509),
  # Counted in it, as OpenAI does.
  (usage(2, 500, completion_tokens_details=thought(400)), 2, 500),
  (usage(2, 9, **thought(500)), 2, 509),
  ({"input_tokens": 2, "output_tokens": 9}, 2, 9),
  (
    {"input_tokens": 2, "output_tokens": 9}
    | {"output_tokens_details": thought(500)},
    *(2, 509),
  ),
  (
    {"promptTokenCount": 2, "candidatesTokenCount": 9}
    | {"thoughtsTokenCount": 500, "totalTokenCount": 511},
    *(2, 509),
  ),
]


@pytest.mark.parametrize(("usage", "prompt", "completion"), USAGES)
def test_hidden_thinking_is_in_the_bill(usage, prompt, completion, caplog):
  reply, _, run = reply_to(
    says(usage=usage), max_tokens=8, price_in=1.0, price_out=10.0
  )
  assert (reply.prompt_tokens, reply.completion_tokens) == (prompt, completion)
  spent = run.ledger.spent
  assert spent.dollars == pytest.approx((prompt + 10 * completion) * 1e-6)
  assert spent.tokens == prompt + completion
  assert ("over its bound" in caplog.text) is (completion >= 500)


@pytest.mark.parametrize("usage", [7, [], "many", {"total_tokens": [1]}])
def test_usage_that_makes_no_sense_loses_no_answer(usage):
  reply, calls, _ = reply_to(says(usage=usage))
  assert (reply.status, reply.text, calls) == ("ok", "42", 1)
  assert reply.completion_tokens is None
