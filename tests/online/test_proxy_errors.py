"""An upstream whose errors come with HTTP 200: the student answers alone."""

import json

import pytest
from aiohttp import web

from tests.online.proxied import (
  ASK,
  application,
  begin_stream,
  run,
  teacher,
  upstream,
  whole,
  write_word,
)

BODIES = [
  '{"error": {"message": "overloaded", "code": 503}}',
  '{"error": "overloaded"}',
  '{"errors": [{"message": "overloaded"}]}',
  '{"detail": "Not Found"}',
  '{"type": "error", "message": "overloaded"}',
  '{"object": "error", "message": "no", "code": 400}',
  '{"choices": []}',
  '{"choices": null}',
  "{}",
  "7",
  "",
  "Internal Server Error",
  "<html>502</html>",
  '{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}',
  '{"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}',
  json.dumps({"choices": [{"message": {"content": "API Error: 500 no"}}]}),
]


@pytest.mark.parametrize("body", BODIES)
def test_a_guided_answer_that_is_an_error(body):
  def answer(messages):
    word = messages[-1]["content"].split()[0]
    if word != "GUIDED":
      return f"re {word}"
    return web.Response(text=body, content_type="application/json")

  async def check(proxied):
    assert await proxied.ask() == ("alone_taught_failed", "re ALONE")
    assert await proxied.counts() == {"alone_taught_failed": 1}

  with upstream(answer) as up, teacher() as teach:
    run(check, up, teach)


def test_the_kinds_of_content_that_are_answers_are_handed_on():
  parts = [{"type": "text", "text": "re PARTS"}]
  bodies = {
    "GUIDED": {"message": {"content": parts}, "finish_reason": "STOP"},
  }

  def answer(messages):
    word = messages[-1]["content"].split()[0]
    if word not in bodies:
      return f"re {word}"
    return web.json_response({"choices": [bodies[word]]})

  async def check(proxied):
    url = f"{proxied.url}/v1/chat/completions"
    body = {"model": "any", "messages": ASK}
    async with proxied.session.post(url, json=body) as reply:
      choice = (await reply.json())["choices"][0]
      assert reply.headers["x-atlas-teaching"] == "taught"
    assert choice == bodies["GUIDED"]
    assert await proxied.counts() == {"taught": 1}

  with upstream(answer) as up, teacher() as teach:
    run(check, up, teach)


def test_an_error_of_the_unaided_answer_is_counted_as_one():
  body = {"error": "overloaded"}

  def answer(messages):
    word = messages[-1]["content"].split()[0]
    return "plan" if word == "PROBE" else web.json_response(body)

  async def check(proxied):
    url = f"{proxied.url}/v1/chat/completions"
    sent = {"model": "any", "messages": ASK}
    async with proxied.session.post(url, json=sent) as reply:
      assert await reply.json() == body
    assert await proxied.counts() == {"failed": 1}

  with upstream(answer) as up, teacher() as teach:
    run(check, up, teach)


@pytest.mark.parametrize("text", ['{"error": "overloaded"}', "API Error: 500"])
def test_an_error_of_the_teacher_teaches_nothing(text):
  async def check(proxied):
    how, said = await proxied.ask()
    assert (how, said) == ("alone_down", "re ALONE")

  def answer(messages):
    return web.Response(text=text, content_type="application/json")

  with upstream() as up, upstream(answer) as teach:
    run(check, up, teach)


EVENT = {"object": "chat.completion.chunk"}
ROLE = EVENT | {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}
USAGE = EVENT | {"choices": [], "usage": {"prompt_tokens": 1}}
ERROR = {"error": {"message": "overloaded", "code": 503}}


def streams(*events, wait=False):
  """An upstream whose guided streams are these events alone."""

  async def chat(request):
    body = await request.json()
    word = body["messages"][-1]["content"].split()[0]
    if not body.get("stream"):
      return whole(f"re {word}")
    response = await begin_stream(request)
    if word != "GUIDED":
      await write_word(response, f"re {word}")
    else:
      for event in events:
        text = event if isinstance(event, str) else json.dumps(event)
        lead = "" if text.startswith((":", "event")) else "data: "
        await response.write(f"{lead}{text}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response

  return application(chat)


async def streamed(proxied) -> tuple[str, str]:
  """(what x-atlas-teaching says, the words of the stream)."""
  url = f"{proxied.url}/v1/chat/completions"
  body = {"model": "any", "messages": ASK, "stream": True}
  async with proxied.session.post(url, json=body) as reply:
    lines = (await reply.text()).splitlines()
  data = [line[6:] for line in lines if line.startswith("data: {")]
  choices = [c for d in data for c in json.loads(d).get("choices", [])]
  words = [c["delta"].get("content") or "" for c in choices]
  return reply.headers["x-atlas-teaching"], "".join(words)


@pytest.mark.parametrize(
  "events",
  [
    [],
    [ERROR],
    [": keep-alive", ERROR],
    [f"event: error\ndata: {json.dumps(ERROR)}"],
    [{"type": "error", "message": "overloaded"}],
    [{"detail": "Not Found"}],
    [ROLE, ERROR],
    [ROLE, USAGE],
    [ROLE, ROLE],
    [": keep-alive"],
  ],
)
def test_a_guided_stream_that_begins_with_an_error_or_has_no_word(events):
  async def check(proxied):
    assert await streamed(proxied) == ("alone_taught_failed", "re ALONE")
    assert await proxied.counts() == {"alone_taught_failed": 1}

  with teacher() as teach:
    run(check, streams(*events), teach)


def test_a_guided_stream_is_handed_on_from_its_first_event():
  word = EVENT | {"choices": [{"index": 0, "delta": {"content": "re GUIDED"}}]}
  thought = EVENT | {"choices": [{"index": 0, "delta": {"reasoning": "hm"}}]}
  for events in (
    [ROLE, word],
    [word, ERROR],
    [thought, word],
    [ROLE, USAGE, word],
  ):

    async def check(proxied):
      assert await streamed(proxied) == ("taught", "re GUIDED")
      assert await proxied.counts() == {"taught": 1}

    with teacher() as teach:
      run(check, streams(*events), teach)
