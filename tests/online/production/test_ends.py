"""Chats through the proxy that break off, or whose client leaves."""

import asyncio

import openai
import pytest

from tests.online.production.proxied import (
  ASK,
  begin_stream,
  proxy,
  working,
  write_word,
)


async def test_a_stream_that_breaks_off_is_an_error_for_the_client():
  async def chat(request, stream, _):
    response = await begin_stream(request)
    await write_word(response, "a")
    await asyncio.sleep(0.05)
    request.transport.abort()
    return response

  async with proxy(working(chat)) as p:
    pieces = []
    with pytest.raises(openai.APIError, match="cannot be reached"):
      async for chunk in await p.client.chat.completions.create(
        model="any", messages=ASK, stream=True
      ):
        pieces.append(chunk.choices[0].delta.content)
    assert pieces == ["a"]
    assert await p.counts() == {"failed": 1}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("clients", [1, 20])
async def test_clients_that_leave_end_the_work_of_the_upstream(stream, clients):
  begun, ended = [], []

  async def chat(request, stream, _):
    if stream:
      await write_word(await begin_stream(request), "a")
    begun.append(request)
    try:
      await asyncio.sleep(600)
    except asyncio.CancelledError:
      ended.append(request)
      raise

  async with proxy(working(chat)) as p:
    asked = [
      asyncio.ensure_future(p.post(stream=stream)) for _ in range(clients)
    ]
    while len(begun) < clients:
      await asyncio.sleep(0.01)
    for one in asked:
      one.cancel()
    while await p.metric("atlas_proxy_in_flight") or len(ended) < clients:
      await asyncio.sleep(0.01)
    assert await p.counts() == {"cancelled": clients}


@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b"data: no\n\n"])
async def test_a_client_that_leaves_after_the_last_event_has_its_answer(done):
  left = asyncio.Event()

  async def chat(request, stream, _):
    response = await begin_stream(request)
    await write_word(response, "data: [DONE]")  # a word is not the event
    for part in (done[:9], done[9:]):
      await response.write(part)
      await asyncio.sleep(0.05)
    await asyncio.wait_for(left.wait(), 60)
    return response

  async with proxy(working(chat)) as p:
    body = {"model": "any", "messages": ASK, "stream": True}
    url = f"{p.url}/v1/chat/completions"
    async with p.session.post(url, json=body) as answer:
      got = b""
      while done not in got:
        got += await answer.content.readany()
    while await p.metric("atlas_proxy_in_flight"):
      await asyncio.sleep(0.02)
    left.set()
    counted = "taught" if b"DONE" in done else "cancelled"
    assert await p.counts() == {counted: 1}
