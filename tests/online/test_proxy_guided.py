"""The proxy when the upstream fails under the teaching."""

import asyncio
import json

import openai
import pytest
from aiohttp import web

from tests.online.proxied import (
  ASK,
  application,
  begin_stream,
  contents,
  run,
  teacher,
  upstream,
  whole,
  write_word,
)


def refuses(status: int, *words: str):
  """Answers of an upstream; prompts that begin so get an error."""

  def answer(messages):
    word = messages[-1]["content"].split()[0]
    if word not in words:
      return f"re {word}"
    error = {"error": {"message": "its own words"}}
    return web.json_response(error, status=status)

  return upstream(answer)


async def streamed(proxied) -> tuple[str, str]:
  """(what x-atlas-teaching says, text) of a stream."""
  stream = await proxied.client.chat.completions.create(
    model="any", messages=ASK, stream=True
  )
  pieces = [c.choices[0].delta.content or "" async for c in stream]
  return stream.response.headers["x-atlas-teaching"], "".join(pieces)


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 503])
def test_a_guided_request_that_fails_is_followed_by_the_unaided_one(status):
  async def check(proxied):
    assert await proxied.ask() == ("alone_taught_failed", "re ALONE")
    assert await streamed(proxied) == ("alone_taught_failed", "re ALONE")
    assert await proxied.counts() == {"alone_taught_failed": 2}

  with refuses(status, "GUIDED") as up, teacher() as teach:
    run(check, up, teach)
  words = [content.split()[0] for content in contents(up)]
  assert words == ["PROBE", "GUIDED", "ALONE"] * 2


@pytest.mark.parametrize("status", [401, 403, 429])
def test_what_the_unaided_request_would_meet_too_is_handed_on(status):
  async def check(proxied):
    with pytest.raises(openai.APIStatusError, match="its own words") as error:
      await proxied.ask()
    assert error.value.status_code == status
    assert error.value.response.headers["x-atlas-teaching"] == "taught"
    assert await proxied.counts() == {"failed": 1}

  with refuses(status, "GUIDED") as up, teacher() as teach:
    run(check, up, teach)
  assert contents(up)[-1].startswith("GUIDED") and len(up.calls) == 2


def test_the_unaided_request_is_not_followed_by_another():
  async def check(proxied):
    with pytest.raises(openai.InternalServerError) as error:
      await proxied.ask()
    how = error.value.response.headers["x-atlas-teaching"]
    assert how == "alone_taught_failed"
    assert await proxied.counts() == {"failed": 1}

  with refuses(500, "GUIDED", "ALONE") as up, teacher() as teach:
    run(check, up, teach)
  assert len(up.calls) == 3


def breaks_off(when: str, seen: list) -> web.Application:
  """An upstream that breaks off guided requests; each word is in `seen`.

  when: "" at once, "head" after its status and headers, "silent" never: it
  says nothing.
  """

  async def chat(request):
    body = await request.json()
    word = body["messages"][-1]["content"].split()[0]
    seen.append(word)
    if word == "GUIDED":
      if when == "head":
        await begin_stream(request)
        await asyncio.sleep(0.05)
      if when == "silent":
        await asyncio.sleep(60)
      request.transport.abort()
    if not body.get("stream"):
      return whole(f"re {word}")
    response = await begin_stream(request)
    await write_word(response, f"re {word}")
    return response

  return application(chat)


@pytest.mark.parametrize("when", ["", "head"])
def test_a_connection_that_breaks_before_the_first_byte(when):
  async def check(proxied):
    assert await proxied.ask() == ("alone_taught_failed", "re ALONE")
    assert await streamed(proxied) == ("alone_taught_failed", "re ALONE")
    assert await proxied.counts() == {"alone_taught_failed": 2}

  seen = []
  with teacher() as teach:
    run(check, breaks_off(when, seen), teach)
  assert seen == ["PROBE", "GUIDED", "ALONE"] * 2


def test_nobody_waits_twice_for_an_upstream_that_says_nothing():
  async def check(proxied):
    url = f"{proxied.url}/v1/chat/completions"
    async with proxied.session.post(url, json={"messages": ASK}) as answer:
      assert answer.status == 504
      error = json.loads(await answer.text())["error"]
    assert error["message"] == "the upstream did not answer in time"
    assert await proxied.counts() == {"failed": 1}

  seen = []
  with teacher() as teach:
    run(check, breaks_off("silent", seen), teach, silence_timeout_s=2.0)
  assert seen == ["PROBE", "GUIDED"]


def test_a_stream_that_brings_nothing_ends_so():
  async def chat(request):
    if not (await request.json()).get("stream"):
      return whole("plan")
    return await begin_stream(request)

  async def check(proxied):
    assert await streamed(proxied) == ("alone_taught_failed", "")
    assert await proxied.counts() == {"alone_taught_failed": 1}

  with teacher() as teach:
    run(check, application(chat), teach)
