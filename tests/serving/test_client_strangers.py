"""The client against servers that want its key, or fill its memory."""

import asyncio
import base64

import pytest
from aiohttp import web

from atlas_jax.serving import http
from atlas_jax.serving.client import Sampling, ServerDown, ServerError
from tests.hostile_server import (
  REDIRECTS,
  Hostile,
  bomb,
  breaks,
  endless,
  no_http,
  redirect,
  said,
)
from tests.serving.stub_vllm import SAMPLING, ask, choice, client, stub


@pytest.mark.parametrize("status", REDIRECTS)
def test_a_redirect_is_not_followed(status):
  """Neither the bearer token nor a prompt goes to another server."""

  async def main(url):
    async with client(url, api_key="sk-0123456789") as c:
      await c.generate([1, 2], SAMPLING)

  with (
    Hostile() as thief,
    Hostile(redirect(status, thief.url)) as server,
    pytest.raises(ServerError, match="not followed") as caught,
  ):
    asyncio.run(main(server.url))
  assert server.url in str(caught.value) and thief.url in str(caught.value)
  assert type(caught.value) is ServerError and not thief.requests
  assert len(server.requests) == 1 and "sk-0123456789" in server.text


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("body", [endless, bomb])
def test_an_answer_of_more_than_its_tokens_can_take(monkeypatch, body, status):
  monkeypatch.setattr(http, "MOST_BYTES", 1 << 20)

  async def main(url):
    async with client(url) as c:
      await c.generate([1, 2], SAMPLING)

  most = (1 << 20) + 4 * 1024  # 1 KB for each of 4 tokens
  with (
    Hostile(body(status)) as server,
    pytest.raises(ServerError, match=f"more than {most} bytes"),
  ):
    asyncio.run(main(server.url))
  assert len(server.requests) == 1 and server.sent < 32 << 20


NO_HTTP = no_http("sk-0123456789abcdef")


@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_neither_told_nor_logged(data, caplog):
  key = "sk-0123456789abcdef"

  async def main(url):
    async with client(url, api_key=key, retries=1) as c:
      await c.generate([1, 2], SAMPLING)

  with (
    Hostile(breaks(data)) as server,
    pytest.raises(ServerDown, match="broke off") as caught,
  ):
    asyncio.run(main(server.url))
  assert len(server.requests) == 2 and "again in" in caplog.text
  assert key[:4] not in str(caught.value) + caplog.text


@pytest.mark.parametrize("value", [{}, [], None, {"choices": [{}]}, "x", 7])
def test_json_that_is_no_answer_is_a_failure(value):
  async def main(url):
    async with client(url, retries=1) as c:
      with pytest.raises(ServerDown, match="failed 2 times"):
        await c.generate([1, 2], SAMPLING)
      with pytest.raises(ServerDown, match="failed 2 times"):
        await c.score([1], [2])

  with Hostile(said(value)) as server:
    asyncio.run(main(server.url))


def test_the_bound_leaves_room_for_every_token():
  """n=8 of 2,048 tokens, each as long as vLLM may write it."""
  sampling = Sampling(2048, 1.0, n=8)
  entry = {"token": "token_id:151935", "logprob": -12.345678901234567}
  entry |= {"bytes": [240, 159, 146] * 4, "top_logprobs": [dict(entry)] * 2}

  async def handler(_):
    long = {"content": [entry] * 2048}
    made = choice(ids=[151935] * 2048) | {"logprobs": long}
    choices = [made | {"index": i} for i in range(8)]
    return web.json_response({"choices": choices})

  async def main():
    async with stub(handler) as url, client(url) as c:
      return await c.generate([1], sampling)

  assert [len(d.token_ids) for d in asyncio.run(main())] == [2048] * 8


def test_a_server_that_repeats_the_key():
  key = "sk-0123456789abcdef"
  text = "x" * 590 + key + base64.b64encode(f"Bearer {key}".encode()).decode()
  error, _ = ask([{"status": 400, "text": text}], api_key=key)
  assert "refused the request, 400: xxx" in str(error)
  assert "sk-012" not in str(error) and "***" in str(error)
