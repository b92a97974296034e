"""Connections of the proxy: odd bytes, idle ones, slow readers, and its log."""

import asyncio
import contextlib
import gzip
import json
import logging
import resource

import openai
import pytest

from atlas_jax.online.production import doors
from atlas_jax.online.production.config import Keys
from tests.online.production import raw_http
from tests.online.production.proxied import (
  begin_stream,
  proxy,
  upstream,
  whole,
  working,
)

SECRET = "Authorization: Bearer sk-private-key"
PRIVATE = b'{"messages": [{"role": "user", "content": "a private question"}]}'
LONG = raw_http.chat(SECRET, body=PRIVATE)


def odd(*lines: str, body: bytes = PRIVATE, **kwargs) -> bytes:
  """A request that holds a key and a question, with these headers."""
  kind = "Content-Type: application/json"
  return raw_http.head(SECRET, kind, *lines, **kwargs) + body


def chunked(body: bytes, *lines: str) -> bytes:
  return odd("Transfer-Encoding: chunked", *lines, body=body)


# What two servers in a row may read in two ways, or one not at all.
SHORT = odd("Content-Length: 5").replace(b"close", b"keep-alive")
ODD = {
  "a space before the colon": odd(SECRET.replace(":", " :")),
  "a folded header": odd("X: y\r\n private"),
  "NUL": odd("X: y\0"),
  "NUL in a name": odd("private\0: y"),
  "a short Content-Length": SHORT,
  "a bare LF": LONG.replace(b"\r\n", b"\n"),
  "a bare CR": LONG.replace(b"\r\n", b"\r"),
  "no colon": odd("sk-private-key"),
  "no version": b"GET /private?sk-private-key\r\n\r\n",
  "TLS": b"\x16\x03\x01\x02\x00\x01\x00sk-private-key private\r\n\r\n",
  "a long header": odd("X: " + "sk-private-key" * 5000),
  "a long target": odd(path="/private" * 5000),
  "many headers": odd(*["X: sk-private-key"] * 500),
  "CL and TE": raw_http.chat("Transfer-Encoding: chunked", SECRET),
  "TE and CL": chunked(b"0\r\n\r\n" + LONG, "Content-Length: 4"),
  "two CL": odd("Content-Length: 4", "Content-Length: 65"),
  "CL with a sign": odd("Content-Length: +65"),
  "CL as a list": odd("Content-Length: 65, 65"),
  "CL in hex": odd("Content-Length: 0x41"),
  "CL with a space": odd("Content-Length: 6 5"),
  "TE that is unknown": odd("Transfer-Encoding: xchunked"),
  "TE twice": odd("Transfer-Encoding: chunked, chunked"),
  "TE with a tab": odd("Transfer-Encoding:\x0bchunked"),
  "a chunk's size with a sign": chunked(b"-5\r\nprivate\r\n0\r\n\r\n"),
  "a chunk that overflows": chunked(b"f" * 17 + b"\r\nprivate\r\n0\r\n\r\n"),
  "a chunk that ends early": chunked(b"3\r\nprivate\r\n0\r\n\r\n"),
  "an extension": chunked(b"1;" + b"private" * 20000 + b"\r\n{\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD.keys())
async def test_odd_bytes_are_refused_and_stay_out_of_the_log(data, caplog):
  caplog.set_level(logging.DEBUG)
  async with proxy(body_timeout_s=1.0) as p:
    answer = await raw_http.send(p, data)
    # At most one request was read in it.
    assert answer.count(b"HTTP/1.") <= 2 and b" 200 OK" not in answer
    assert await p.ask() == ("taught", "re GUIDED")
  text = caplog.text + "".join(map(repr, (vars(r) for r in caplog.records)))
  assert "private" not in text
  assert len(p.up.calls) == 2


async def test_a_record_of_the_framework_keeps_its_kind_and_comes_once(caplog):
  logger = logging.getLogger("aiohttp.server")
  async with proxy() as p:
    for _ in range(20):
      await raw_http.send(p, ODD["NUL"])
  (record,) = [r for r in caplog.records if r.name == "aiohttp.server"]
  assert record.getMessage() == "BadHttpMessage (logged once a minute)"
  assert record.exc_info is None and not logger.filters


async def test_what_the_event_loop_logs_loses_its_words_too(caplog):
  async with proxy():
    loop = asyncio.get_running_loop()
    for number in range(200):
      reason = OSError(24, f"private {number}")
      loop.call_exception_handler({"message": "private", "exception": reason})
  (record,) = [r for r in caplog.records if r.name == "asyncio"]
  assert record.getMessage() == "OSError (logged once a minute)"
  assert "private" not in caplog.text


@contextlib.asynccontextmanager
async def opened(p, count: int, data: bytes = b""):
  """Connections that send `data` and no more, as (reader, writer)."""
  address = p.url[7:].split(":")
  held = []
  try:
    for _ in range(count):
      held.append(await asyncio.open_connection(*address))
      held[-1][1].write(data)
    yield held
  finally:
    for _, writer in held:
      writer.transport.abort()


@pytest.mark.parametrize("data", [b"", b"POST / HTTP/1.1\r\nHost: lo"])
async def test_idle_connections_leave_room_for_one_that_asks(data, caplog):
  async with proxy(max_connections=20) as p, opened(p, 60, data) as held:
    assert await p.ask() == ("taught", "re GUIDED")
    # The oldest ones went.
    assert await asyncio.wait_for(held[0][0].read(), 60) == b""
    assert not held[-1][0].at_eof()
  assert not caplog.records


async def test_connections_that_are_being_answered_are_not_ended():
  async with proxy(upstream(latency_s=1.0), max_connections=3) as p:
    asked = [asyncio.ensure_future(p.ask()) for _ in range(3)]
    while len(p.up.calls) < 3:
      await asyncio.sleep(0.01)
    async with opened(p, 5) as late:
      for reader, _ in late:
        with contextlib.suppress(ConnectionError):
          assert await asyncio.wait_for(reader.read(), 60) == b""
    p.up.latency_s = 0.0
    assert {await a for a in asked} == {("taught", "re GUIDED")}


@pytest.mark.parametrize("data", [b"", b"POST / HTTP/1.1\r\nX: ", LONG[:-200]])
async def test_who_sends_no_whole_head_is_closed(data):
  async with (
    proxy(idle_timeout_s=0.2) as p,
    opened(p, 1, data) as ((reader, _),),
  ):
    assert await asyncio.wait_for(reader.read(), 60) == b""
  assert p.up.calls == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_takes_nothing_gives_its_place_back(stream):
  ended = asyncio.Event()

  async def chat(request, *_):
    if not stream:
      return whole("x" * (12 << 20))
    response = await begin_stream(request)
    try:
      while True:
        await response.write(b"data: " + b"x" * 65536 + b"\n\n")
    except (ConnectionError, asyncio.CancelledError):
      ended.set()
      raise

  async with proxy(working(chat), write_timeout_s=1.0) as p:
    body = b'{"messages": [{"role": "user", "content": "?"}], "stream": true}'
    async with opened(p, 1, raw_http.chat(body=body)) as ((reader, _),):
      reader._transport.pause_reading()
      while not await p.metric("atlas_proxy_in_flight"):
        await asyncio.sleep(0.02)
      while await p.metric("atlas_proxy_in_flight"):
        await asyncio.sleep(0.05)
      if stream:
        await asyncio.wait_for(ended.wait(), 60)
        assert await p.counts() == {"cancelled": 1}


async def test_bodies_of_any_depth_are_answered_or_refused(caplog):
  async with proxy() as p:
    for depth in range(850, 1000, 5):
      nested = b"[" * depth + b"]" * depth
      body = b'{"n": 2, "metadata": %s, %s' % (nested, raw_http.CHAT[1:])
      answer = await raw_http.send(p, raw_http.chat(body=body))
      assert raw_http.status(answer) in (200, 400)
    assert "failed" not in await p.counts()
  assert "a chat failed" not in caplog.text


async def test_a_compressed_body_is_not_inflated():
  bomb = gzip.compress(b" " * (8 << 20))
  line = "Content-Encoding: gzip"
  async with proxy(keys=Keys(client="sk-k"), client_key="sk-k") as p:
    keyless = raw_http.chat(line, body=bomb)
    assert raw_http.status(await raw_http.send(p, keyless)) == 401
    keyed = raw_http.chat(line, "Authorization: Bearer sk-k", body=bomb)
    answer = await raw_http.send(p, keyed)
    assert raw_http.status(answer) == 415 and b"compressed" in answer
  assert p.up.calls == []


@pytest.mark.parametrize("key", [b"", b"Authorization: Bearer sk-k\r\n"])
async def test_the_rest_of_a_refused_body_is_not_read(key):
  """100 MB are said to come; the refusal comes without them."""
  lines = ("Content-Type: application/json", "Content-Length: 100000000")
  data = raw_http.head(*lines).replace(b"Connection: close\r\n", key)
  data += b" " * 70_000
  async with (
    proxy(keys=Keys(client="sk-k"), max_request_bytes=50_000) as p,
    opened(p, 1, data) as ((reader, _),),
  ):
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    assert raw_http.status(head) == (413 if key else 401)
    assert b"Connection: close" in head
    await asyncio.wait_for(reader.read(), 60)  # it closes


def test_files_for_all_connections_are_allowed(monkeypatch):
  seen = []
  monkeypatch.setattr(resource, "setrlimit", lambda *a: seen.append(a))
  monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 476))
  doors.reserve_files()
  assert seen == [(resource.RLIMIT_NOFILE, (476, 476))]


async def test_a_pipelined_flood_is_answered_in_order():
  get = raw_http.head(path="/nowhere", method="GET")
  get = get.replace(b"close", b"keep-alive")
  async with proxy() as p:
    answer = await raw_http.send(p, get * 200 + raw_http.chat())
    assert answer.count(b" 404 ") == 200 and answer.count(b" 200 OK") == 1


# Bodies: in time, in pieces, and bounded together.


async def test_more_than_the_proxy_holds_are_refused_for_now():
  async with proxy(upstream(latency_s=0.2), max_concurrency=3) as p:
    results = await asyncio.gather(
      *(p.ask() for _ in range(5)), return_exceptions=True
    )
    refused = [r for r in results if isinstance(r, openai.RateLimitError)]
    assert len(refused) == 2 and results.count(("taught", "re GUIDED")) == 3
    assert refused[0].response.headers["retry-after"] == "1"
    assert await p.counts() == {"taught": 3, "refused": 2}


def begun(p, size: int, beginning: bytes, count: int = 1):
  """Requests whose bodies of `size` bytes have begun to come."""
  kind, length = "Content-Type: application/json", f"Content-Length: {size}"
  return opened(p, count, raw_http.head(kind, length) + beginning)


async def test_who_is_slow_to_ask_takes_nobodys_place():
  async with proxy(max_concurrency=1, body_timeout_s=1.0) as p:
    async with begun(p, 100, b"{") as ((reader, _),):
      await asyncio.sleep(0.1)
      assert await p.ask() == ("taught", "re GUIDED")
      head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
      body = await reader.readuntil(b"}}")
    assert head.startswith(b"HTTP/1.1 408") and b"Connection: close" in head
    error = json.loads(body)["error"]
    assert error["message"] == "the body took over 1 s"
    assert error["type"] == "invalid_request_error"
    assert await p.counts() == {"taught": 1, "refused": 1}


async def test_a_body_that_comes_in_pieces_is_answered():
  chat = raw_http.CHAT
  async with proxy() as p:
    async with begun(p, len(chat), chat[:9]) as ((reader, writer),):
      await asyncio.sleep(0.1)
      writer.write(chat[9:])
      assert (await reader.readline()).startswith(b"HTTP/1.1 200")
      await reader.read()
    assert await p.counts() == {"taught": 1}


async def test_bodies_that_are_being_read_are_bounded_together():
  async with proxy(max_held_bytes=6000) as p:
    async with begun(p, 4000, b" " * 3000, count=2):
      await asyncio.sleep(0.1)
      with pytest.raises(openai.RateLimitError, match="full"):
        await p.ask()
    while (await p.counts()).get("cancelled") != 2:
      await asyncio.sleep(0.02)
    assert (await p.ask())[0] == "taught"
