"""Who may ask the proxy, with which key, how much, and what is refused."""

import asyncio
import contextlib
import json

import openai
import pytest
from aiohttp import web

from atlas_jax.config import ConfigError
from atlas_jax.online.calls.calls import Request
from atlas_jax.online.calls.url_calls import UrlCalls
from atlas_jax.online.production.proxy.config import (
  ChatServerConfig,
  Keys,
  ProxyConfig,
  UpstreamConfig,
  read_keys,
)
from tests.online.proxied import (
  ASK,
  application,
  run,
  serving,
  teacher,
  upstream,
  whole,
)


def test_clients_show_their_key():
  async def check(proxied):
    assert (await proxied.ask())[0] == "taught"
    wrong = proxied.client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError):
      await wrong.chat.completions.create(model="any", messages=ASK)
    with pytest.raises(openai.AuthenticationError):
      await wrong.models.list()
    assert (await proxied.client.models.list()).data[0].id == "stub"
    assert await proxied.counts() == {"taught": 1, "refused": 1}

  with upstream(api_key="sk-up") as up, teacher(api_key="sk-teach") as teach:
    keys = Keys(client="sk-client", upstream="sk-up", teacher="sk-teach")
    assert "sk-" not in repr(keys)
    run(check, up, teach, keys=keys, client_key="sk-client")
  assert len(up.calls) == 2
  # Nobody's key reaches another server.
  sent = {call.headers["Authorization"] for call in up.calls}
  assert sent == {"Bearer sk-up"}
  assert teach.calls[0].headers["Authorization"] == "Bearer sk-teach"


@pytest.mark.parametrize("name", ["api_key_env", "upstream", "teacher"])
def test_a_key_with_a_control_character_is_refused_at_the_start(name):
  named = {"api_key_env": "KEY"}
  changes = {
    "api_key_env": named,
    "upstream": {"upstream": UpstreamConfig(**named)},
    "teacher": {"teacher": ChatServerConfig(**named)},
  }
  config = ProxyConfig(**changes[name])
  key = name if name == "api_key_env" else f"{name}.api_key_env"
  for value in ("sk-1\r", "sk-1\n", "sk\x7f1"):
    with pytest.raises(ConfigError) as error:
      read_keys(config, {"KEY": value})
    text = str(error.value)
    assert f"config.{key}: the variable KEY holds" in text and "sk" not in text
  assert "sk-1" in vars(read_keys(config, {"KEY": "sk-1"})).values()


def test_the_clients_own_key_is_passed_on_to_the_upstream_alone():
  async def check(proxied):
    assert (await proxied.ask())[0] == "taught"
    await proxied.client.models.list()

  with upstream(api_key="sk-client") as up, teacher() as teach:
    sent = {"forward_authorization": True}
    run(check, up, teach, client_key="sk-client", sent=sent)
  assert "Authorization" not in teach.calls[0].headers


def sets_cookies(seen: list) -> web.Application:
  """An upstream that wants its sessions back; what it gets is in `seen`."""

  async def chat(request):
    seen.append(request.headers.get("Cookie"))
    response = whole("re")
    response.set_cookie("session", f"of {len(seen)}")
    return response

  return application(chat)


def test_a_cookie_for_one_client_is_not_sent_for_another():
  seen = []

  async def check(proxied):
    for _ in range(2):
      assert (await proxied.ask(n=2))[0] == "passed_through"
    assert seen == [None, None]

  async def main():
    # Cookies of a bare address are kept by nobody.
    async with serving(sets_cookies(seen), "localhost") as url:
      await asyncio.to_thread(run, check, url, "http://127.0.0.1:9")

  asyncio.run(main())


def test_a_cookie_of_one_call_is_not_sent_with_the_next():
  seen = []
  request = Request(
    role="teacher",
    messages=tuple(ASK),
    max_tokens=9,
    temperature=0.0,
    seed=None,
    replicate=0,
  )

  async def main():
    async with serving(sets_cookies(seen), "localhost") as url:
      calls = UrlCalls(
        url, model="stub", key=None, extra={}, most_bytes=1 << 20
      )
      for _ in range(2):
        await calls.send(request)
      await calls.aclose()

  asyncio.run(main())
  assert seen == [None, None]


def test_without_a_model_of_the_upstream_the_client_names_it():
  async def check(proxied):
    assert (await proxied.ask(model="stub"))[0] == "taught"
    with pytest.raises(openai.NotFoundError, match="model other"):
      await proxied.ask(model="other")

  with upstream() as up, teacher() as teach:
    run(check, up, teach, sent={"model": None})


@pytest.mark.parametrize(
  ("data", "status", "words"),
  [
    (b"{", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    (b"[]", 400, "'messages'"),
    (b'{"messages": []}', 400, "'messages'"),
    (b'{"messages": ["hello"]}', 400, "'messages'"),
    (b'{"x": "' + b"y" * 200_000 + b'"}', 413, "200000 bytes"),
  ],
)
def test_what_is_no_request_is_refused(data, status, words):
  async def check(proxied):
    url = f"{proxied.url}/v1/chat/completions"
    kind = {"Content-Type": "application/json"}
    async with proxied.session.post(url, data=data, headers=kind) as response:
      assert response.status == status
      assert words in (await response.json())["error"]["message"]
    assert await proxied.counts() == {"refused": 1}

  with upstream() as up, teacher() as teach:
    run(check, up, teach, max_request_bytes=200_000)
  assert up.calls == teach.calls == []


def test_another_path_is_told_what_there_is():
  async def check(proxied):
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
      await proxied.client.embeddings.create(model="m", input="x")

  with upstream() as up, teacher() as teach:
    run(check, up, teach)


def test_more_than_the_proxy_holds_are_told_to_come_back():
  async def check(proxied):
    results = await asyncio.gather(
      *(proxied.ask() for _ in range(5)), return_exceptions=True
    )
    refused = [r for r in results if isinstance(r, openai.RateLimitError)]
    assert len(refused) == 2 and results.count(("taught", "re GUIDED")) == 3
    assert refused[0].response.headers["retry-after"] == "1"
    assert await proxied.counts() == {"taught": 3, "refused": 2}

  with upstream(latency_s=0.2) as up, teacher() as teach:
    run(check, up, teach, max_concurrency=3)


ONE = b'{"messages": [{"role": "user", "content": "1+1?"}]}'


@contextlib.asynccontextmanager
async def begun(proxied, size: int, beginning: bytes):
  """A request whose body of `size` bytes has begun to come."""
  reader, writer = await asyncio.open_connection(*proxied.url[7:].split(":"))
  writer.write(
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (size, beginning)
  )
  await writer.drain()
  await asyncio.sleep(0.1)
  yield reader, writer
  writer.close()


def test_who_is_slow_to_ask_takes_nobodys_place():
  async def check(proxied):
    async with begun(proxied, 100, b"{") as (reader, _):
      assert await proxied.ask() == ("taught", "re GUIDED")
      head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
      body = await reader.readuntil(b"}}")
    assert head.startswith(b"HTTP/1.1 408") and b"Connection: close" in head
    error = json.loads(body)["error"]
    assert error["message"] == "the body took over 1 s"
    assert error["type"] == "invalid_request_error"
    assert await proxied.counts() == {"taught": 1, "refused": 1}

  with upstream() as up, teacher() as teach:
    run(check, up, teach, max_concurrency=1, body_timeout_s=1.0)


def test_a_body_that_comes_in_pieces_is_answered():
  async def check(proxied):
    async with begun(proxied, len(ONE), ONE[:9]) as (reader, writer):
      writer.write(ONE[9:])
      assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert await proxied.counts() == {"taught": 1}

  with upstream() as up, teacher() as teach:
    run(check, up, teach)


def test_bodies_that_are_being_read_are_bounded_together():
  async def check(proxied):
    async with (
      begun(proxied, 4000, b" " * 3000),
      begun(proxied, 4000, b" " * 3000),
    ):
      with pytest.raises(openai.RateLimitError, match="full"):
        await proxied.ask()
    while (await proxied.counts()).get("cancelled") != 2:
      await asyncio.sleep(0.02)
    assert (await proxied.ask())[0] == "taught"

  with upstream() as up, teacher() as teach:
    run(check, up, teach, max_held_bytes=6000)
