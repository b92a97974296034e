"""Where the taught request fails, the unaided one follows, once."""

import asyncio
import json

import openai
import pytest
from aiohttp import web

from tests.online.production.proxied import (
  application,
  begin_stream,
  by_word,
  contents,
  event,
  proxy,
  refusal,
  whole,
  word_of,
  working,
  write_word,
)

TAUGHT, ALONE = ("taught", "re GUIDED"), ("alone_taught_failed", "re ALONE")


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 503])
async def test_a_refused_taught_request_is_followed_by_the_unaided(status):
  async with proxy(by_word(GUIDED=lambda: refusal(status))) as p:
    assert await p.ask() == ALONE
    assert await p.stream() == ("alone_taught_failed", ["re ", "ALONE"])
    assert await p.counts() == {"alone_taught_failed": 2}
  words = [content.split()[0] for content in contents(p.up)]
  assert words == ["PROBE", "GUIDED", "ALONE"] * 2


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_what_the_unaided_request_would_meet_too_is_passed_on(status):
  def no():
    return refusal(status, "its own words", headers={"Retry-After": "7"})

  async with proxy(by_word(GUIDED=no)) as p:
    for stream in (False, True):
      with pytest.raises(openai.APIStatusError, match="its own words") as error:
        await p.ask(stream=stream)
      assert error.value.status_code == status
      assert error.value.response.headers["x-atlas-teaching"] == "taught"
      assert error.value.response.headers["retry-after"] == "7"
    assert await p.counts() == {"failed": 2}
  assert contents(p.up)[-1].startswith("GUIDED") and len(p.up.calls) == 4


async def test_the_unaided_request_is_not_followed_by_another():
  def no():
    return refusal(500)

  async with proxy(by_word(GUIDED=no, ALONE=no)) as p:
    with pytest.raises(openai.InternalServerError) as error:
      await p.ask()
    how = error.value.response.headers["x-atlas-teaching"]
    assert how == "alone_taught_failed"
    assert await p.counts() == {"failed": 1}
  assert len(p.up.calls) == 3


def breaks_off(when: str, seen: list) -> web.Application:
  """An upstream that breaks off taught requests; each word is in `seen`.

  when: "at once", "head" after its status and headers, "silent" never: it says
  nothing.
  """

  async def chat(request):
    body = await request.json()
    seen.append(word := word_of(body["messages"]))
    if word == "GUIDED":
      if when == "head":
        await begin_stream(request)
      await asyncio.sleep(60 if when == "silent" else 0.05)
      request.transport.abort()
    if not body.get("stream"):
      return whole(f"re {word}")
    response = await begin_stream(request)
    await write_word(response, f"re {word}")
    return response

  return application(chat)


@pytest.mark.parametrize("when", ["at once", "head"])
async def test_a_connection_that_breaks_before_the_first_byte(when):
  seen = []
  async with proxy(breaks_off(when, seen)) as p:
    assert await p.ask() == ALONE
    assert await p.stream() == ("alone_taught_failed", ["re ALONE"])
    assert await p.counts() == {"alone_taught_failed": 2}
  assert seen == ["PROBE", "GUIDED", "ALONE"] * 2


async def test_nobody_waits_twice_for_an_upstream_that_says_nothing():
  seen = []
  async with proxy(breaks_off("silent", seen), silence_timeout_s=0.5) as p:
    status, text, _ = await p.post()
    message = json.loads(text)["error"]["message"]
    assert (status, message) == (504, "the upstream did not answer in time")
    assert await p.counts() == {"failed": 1}
  assert seen == ["PROBE", "GUIDED"]


@pytest.mark.parametrize(
  "body",
  [
    '{"error": {"message": "overloaded", "code": 503}}',
    '{"error": "overloaded"}',
    '{"errors": [{"message": "overloaded"}]}',
    '{"detail": "Not Found"}',
    '{"type": "error", "message": "overloaded"}',
    '{"object": "error", "message": "no", "code": 400}',
    *('{"choices": []}', '{"choices": null}', "{}", "7", ""),
    *("Internal Server Error", "<html>502</html>"),
    '{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}',
    '{"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}',
    json.dumps({"choices": [{"message": {"content": "API Error: 500 no"}}]}),
  ],
)
async def test_an_error_with_http_200_is_no_answer(body):
  def error():
    return web.Response(text=body, content_type="application/json")

  async with proxy(by_word(GUIDED=error)) as p:
    assert await p.ask() == ALONE
    assert await p.counts() == {"alone_taught_failed": 1}
  async with proxy(by_word(GUIDED=error, ALONE=error)) as p:
    assert (await p.post())[:2] == (200, body)
    assert await p.counts() == {"failed": 1}


async def test_a_content_of_parts_is_an_answer():
  parts = [{"type": "text", "text": "re PARTS"}]
  choice = {"message": {"content": parts}, "finish_reason": "STOP"}

  def answer():
    return web.json_response({"choices": [choice]})

  async with proxy(by_word(GUIDED=answer)) as p:
    _, text, headers = await p.post()
    assert headers["x-atlas-teaching"] == "taught"
    assert json.loads(text)["choices"] == [choice]
    assert await p.counts() == {"taught": 1}


ROLE, THOUGHT = event("assistant", "role"), event("hm", "reasoning")
WORD = event("re GUIDED")
USAGE = {"choices": [], "usage": {"prompt_tokens": 1}}
ERROR = {"error": {"message": "overloaded", "code": 503}}


@pytest.mark.parametrize(
  ("events", "expected"),
  [
    *(
      (events, ALONE)
      for events in (
        *([], [ERROR], [": keep-alive", ERROR], [ROLE, ERROR], [ROLE, USAGE]),
        *([ROLE, ROLE], [": keep-alive"], [{"detail": "Not Found"}]),
        [f"event: error\ndata: {json.dumps(ERROR)}"],
        [{"type": "error", "message": "overloaded"}],
      )
    ),
    *(
      (events, TAUGHT)
      for events in (
        *([ROLE, WORD], [WORD, ERROR], [THOUGHT, WORD], [ROLE, USAGE, WORD]),
      )
    ),
  ],
)
async def test_a_stream_without_a_word_or_that_begins_with_an_error(
  events, expected
):
  async def chat(request, stream, word):
    response = await begin_stream(request)
    if word != "GUIDED":
      await write_word(response, f"re {word}")
    for sent in events if word == "GUIDED" else ():
      text = sent if isinstance(sent, str) else json.dumps(sent)
      lead = "" if text.startswith((":", "event")) else "data: "
      await response.write(f"{lead}{text}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response

  async with proxy(working(chat)) as p:
    _, text, headers = await p.post(stream=True)
    words = [line[6:] for line in text.splitlines() if "re " in line]
    said = [json.loads(w)["choices"][0]["delta"]["content"] for w in words]
    assert (headers["x-atlas-teaching"], *said) == expected
    assert await p.counts() == {expected[0]: 1}


async def test_an_empty_stream_of_the_unaided_answer_ends_so():
  async def chat(request, stream, word):
    return await begin_stream(request)

  async with proxy(working(chat)) as p:
    assert await p.stream() == ("alone_taught_failed", [])
    assert await p.counts() == {"alone_taught_failed": 1}
