"""How a chat completion says that it ended, what it says, and what it used."""

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


@pytest.mark.parametrize(
  "reason",
  [
    *(None, "", "stop", "STOP", "Stop", "end", "COMPLETE", "eos_token", "EOS"),
    *("end_turn", "FINISH_REASON_STOP", "stop-sequence", "done", " stop "),
    *("FinishReason.STOP", "OTHER", "something new", "tool_calls"),
  ],
)
def test_reasons_of_an_answer_that_ended(reason):
  reply, calls, _ = reply_to(says(reason=reason))
  assert (reply.status, reply.text, calls) == ("ok", "42", 1)


@pytest.mark.parametrize(
  "reason",
  [
    *("length", "LENGTH", "max_tokens", "MAX_TOKENS", "max_output_tokens"),
    *("FINISH_REASON_MAX_TOKENS", "model_length", "Max-Tokens"),
  ],
)
def test_reasons_of_an_answer_that_was_cut(reason):
  reply, calls, _ = reply_to(says(reason=reason))
  assert (reply.status, reply.text, calls) == ("truncated", "42", 1)


@pytest.mark.parametrize(
  "reason",
  [
    *(
      "content_filter",
      "SAFETY",
      "RECITATION",
      "refusal",
      "PROHIBITED_CONTENT",
    ),
    *("BLOCKLIST", "content-filtered", "ERROR_TOXIC", "sensitive"),
  ],
)
def test_a_decline_is_not_asked_again(reason):
  reply, calls, _ = reply_to(says(reason=reason))
  assert (reply.status, reply.text, calls) == ("error", None, 1)
  assert reason in reply.error


@pytest.mark.parametrize(
  "reason",
  [
    *("error", "ERROR", "overloaded", "abort", "aborted", "cancelled"),
    *("MALFORMED_RESPONSE", "server_error", "timeout"),
    "insufficient_system_resource",
  ],
)
def test_a_failure_of_the_server_is_asked_again(reason):
  reply, calls, _ = reply_to(says(reason=reason), retries=1)
  assert (reply.status, reply.text, calls) == ("error", None, 2)


def test_no_reason_and_no_text_is_no_answer():
  for reason in ("", "OTHER", "new"):
    reply, calls, _ = reply_to(says(content=None, reason=reason), retries=1)
    assert (reply.status, calls) == ("empty", 2)


TEXT = {"type": "text", "text": "4"}


@pytest.mark.parametrize(
  ("content", "text"),
  [
    ([TEXT, TEXT], "44"),
    ([{"type": "output_text", "text": "42"}], "42"),
    (["4", {"text": "2"}], "42"),
    ([{"type": "thinking", "thinking": "hm"}, TEXT], "4"),
    ([{"type": "reasoning", "text": "hm"}, TEXT], "4"),
    ([{"type": "redacted_thinking", "data": "x"}, TEXT], "4"),
    ([{"text": "hm", "thought": True}, TEXT], "4"),
  ],
)
def test_a_content_in_parts(content, text):
  reply, calls, _ = reply_to(says(content))
  assert (reply.status, reply.text, calls) == ("ok", text, 1)


@pytest.mark.parametrize(
  "content",
  [
    [TEXT, {"type": "image_url", "image_url": {"url": "x"}}],
    [{"type": "text", "text": 7}],
    [7],
    {"text": "42"},
  ],
)
def test_what_is_no_text_is_no_answer_and_asked_twice_at_most(content):
  reply, calls, _ = reply_to(says(content), retries=4)
  assert (reply.status, reply.text, calls) == ("error", None, 2)


@pytest.mark.parametrize(
  "content", [[{"type": "thinking", "thinking": "42"}], "\u200b\u2060 \ufeff\n"]
)
def test_what_nobody_can_read_is_no_answer(content):
  reply, calls, _ = reply_to(says(content), retries=1)
  assert (reply.status, calls) == ("empty", 2)


@pytest.mark.parametrize(
  "body",
  [
    '{"choices": []}',
    "{}",
    '{"choices": null}',
    '{"choices": [{}]}',
    "7",
    "<html><body>Sign in</body></html>",
    "pong",
  ],
)
def test_what_will_never_be_an_answer_is_asked_twice_at_most(body):
  stub = StubServer(lambda m: web.Response(text=body))
  reply, calls, _ = reply_to(stub, retries=4)
  assert (reply.status, reply.text, calls) == ("error", None, 2)


def test_a_schema_error_in_a_200_is_told_at_once():
  error = {"type": "invalid_request_error", "message": "top_q is unknown"}
  stub = StubServer(lambda m: web.json_response({"error": error}))
  reply, calls, _ = reply_to(stub, retries=4)
  assert (reply.status, calls) == ("error", 1) and "top_q" in reply.error


USAGES = [
  # (usage, prompt, completion)
  ({"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 523}, 2, 521),
  (
    {"prompt_tokens": 2.0, "completion_tokens": 2, "total_tokens": 523.0},
    2,
    521,
  ),
  ({"prompt_tokens": "2", "total_tokens": "523"}, 2, 521),
  ({"prompt_tokens": 2, "completion_tokens": 9, "total_tokens": 11}, 2, 9),
  # A total that is too small, or none.
  ({"prompt_tokens": 2, "completion_tokens": 9, "total_tokens": 3}, 2, 9),
  ({"prompt_tokens": 2, "completion_tokens": 9, "total_tokens": None}, 2, 9),
  ({"prompt_tokens": 2, "total_tokens": 523}, 2, 521),
  ({"prompt_tokens": 0, "completion_tokens": 3}, 0, 3),
  (
    {
      "prompt_tokens": 2,
      "completion_tokens": 9,
      "completion_tokens_details": {"reasoning_tokens": 500},
    },
    2,
    509,
  ),
  (  # counted in it, as OpenAI does
    {
      "prompt_tokens": 2,
      "completion_tokens": 500,
      "completion_tokens_details": {"reasoning_tokens": 400},
    },
    2,
    500,
  ),
  (
    {
      "input_tokens": 2,
      "output_tokens": 9,
      "output_tokens_details": {"reasoning_tokens": 500},
    },
    2,
    509,
  ),
  ({"input_tokens": 2, "output_tokens": 9}, 2, 9),
  (
    {
      "promptTokenCount": 2,
      "candidatesTokenCount": 9,
      "thoughtsTokenCount": 500,
      "totalTokenCount": 511,
    },
    2,
    509,
  ),
  (
    {"prompt_tokens": 2, "completion_tokens": 9, "reasoning_tokens": 500},
    2,
    509,
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
