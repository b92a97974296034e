"""Connections of the proxy: odd bytes, idle ones, slow readers, and its log."""

import asyncio
import contextlib
import gzip
import logging
import resource

import pytest

from atlas_jax.online.production.proxy import connections
from atlas_jax.online.production.proxy.config import Keys
from tests.online import raw_http
from tests.online.proxied import (
  application,
  begin_stream,
  run,
  teacher,
  upstream,
  whole,
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
def test_odd_bytes_are_refused_and_stay_out_of_the_log(data, caplog):
  caplog.set_level(logging.DEBUG)

  async def check(proxied):
    answer = await raw_http.send(proxied, data)
    # At most one request was read in it.
    assert answer.count(b"HTTP/1.") <= 2 and b" 200 OK" not in answer
    assert await proxied.ask() == ("taught", "re GUIDED")

  with upstream() as up, teacher() as teach:
    run(check, up, teach, body_timeout_s=1.0)
  text = caplog.text + "".join(map(repr, (vars(r) for r in caplog.records)))
  assert "private" not in text
  assert len(up.calls) == 2


def test_a_record_of_the_framework_keeps_its_kind_and_comes_once(caplog):
  async def check(proxied):
    for _ in range(20):
      await raw_http.send(proxied, ODD["NUL"])

  logger = logging.getLogger("aiohttp.server")
  with upstream() as up, teacher() as teach:
    run(check, up, teach)
  (record,) = [r for r in caplog.records if r.name == "aiohttp.server"]
  assert record.getMessage() == "BadHttpMessage (logged once a minute)"
  assert record.exc_info is None and not logger.filters


def test_what_the_event_loop_logs_loses_its_words_too(caplog):
  async def check(proxied):
    loop = asyncio.get_running_loop()
    for number in range(200):
      reason = OSError(24, f"private {number}")
      loop.call_exception_handler({"message": "private", "exception": reason})

  with upstream() as up, teacher() as teach:
    run(check, up, teach)
  (record,) = [r for r in caplog.records if r.name == "asyncio"]
  assert record.getMessage() == "OSError (logged once a minute)"
  assert "private" not in caplog.text


@contextlib.asynccontextmanager
async def opened(proxied, count: int, data: bytes = b""):
  """Connections that send `data` and no more, as (reader, writer)."""
  address = proxied.url[7:].split(":")
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
def test_idle_connections_leave_room_for_one_that_asks(data, caplog):
  async def check(proxied):
    async with opened(proxied, 60, data) as held:
      assert await proxied.ask() == ("taught", "re GUIDED")
      # The oldest ones went.
      assert await asyncio.wait_for(held[0][0].read(), 60) == b""
      assert not held[-1][0].at_eof()

  with upstream() as up, teacher() as teach:
    run(check, up, teach, max_connections=20)
  assert not caplog.records


def test_connections_that_are_being_answered_are_not_ended():
  async def check(proxied):
    asked = [asyncio.ensure_future(proxied.ask()) for _ in range(3)]
    while len(up.calls) < 3:
      await asyncio.sleep(0.01)
    async with opened(proxied, 5) as late:
      for reader, _ in late:
        with contextlib.suppress(ConnectionError):
          assert await asyncio.wait_for(reader.read(), 60) == b""
    up.latency_s = 0.0
    assert {await a for a in asked} == {("taught", "re GUIDED")}

  with upstream(latency_s=1.0) as up, teacher() as teach:
    run(check, up, teach, max_connections=3)


@pytest.mark.parametrize("data", [b"", b"POST / HTTP/1.1\r\nX: ", LONG[:-200]])
def test_who_sends_no_whole_head_is_closed(data):
  async def check(proxied):
    async with opened(proxied, 1, data) as ((reader, _),):
      assert await asyncio.wait_for(reader.read(), 60) == b""

  with upstream() as up, teacher() as teach:
    run(check, up, teach, idle_timeout_s=0.2)
  assert up.calls == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_takes_nothing_gives_its_place_back(stream):
  ended = asyncio.Event()

  async def chat(request):
    body = await request.json()
    if "PROBE" in body["messages"][-1]["content"]:
      return whole("plan")
    if not stream:
      return whole("x" * (12 << 20))
    response = await begin_stream(request)
    try:
      while True:
        await response.write(b"data: " + b"x" * 65536 + b"\n\n")
    except (ConnectionError, asyncio.CancelledError):
      ended.set()
      raise

  async def check(proxied):
    body = b'{"messages": [{"role": "user", "content": "?"}], "stream": true}'
    async with opened(proxied, 1, raw_http.chat(body=body)) as ((reader, _),):
      reader._transport.pause_reading()
      while not await proxied.metric("atlas_proxy_in_flight"):
        await asyncio.sleep(0.02)
      while await proxied.metric("atlas_proxy_in_flight"):
        await asyncio.sleep(0.05)
      if stream:
        await asyncio.wait_for(ended.wait(), 60)
        assert await proxied.counts() == {"cancelled": 1}

  with teacher() as teach:
    run(check, application(chat), teach, write_timeout_s=1.0)


def test_each_of_twenty_that_leave_ends_the_work_of_the_upstream():
  working, ended = [], []

  async def chat(request):
    body = await request.json()
    if "PROBE" in body["messages"][-1]["content"]:
      return whole("plan")
    working.append(request)
    try:
      await asyncio.sleep(600)
    except asyncio.CancelledError:
      ended.append(request)
      raise

  async def check(proxied):
    async with opened(proxied, 20, raw_http.chat()):
      while len(working) < 20:
        await asyncio.sleep(0.01)
    while await proxied.metric("atlas_proxy_in_flight") or len(ended) < 20:
      await asyncio.sleep(0.01)
    assert await proxied.counts() == {"cancelled": 20}

  with teacher() as teach:
    run(check, application(chat), teach)


def test_bodies_of_any_depth_are_answered_or_refused(caplog):
  async def check(proxied):
    for depth in range(850, 1000, 5):
      nested = b"[" * depth + b"]" * depth
      body = b'{"n": 2, "metadata": %s, %s' % (nested, raw_http.CHAT[1:])
      answer = await raw_http.send(proxied, raw_http.chat(body=body))
      assert raw_http.status(answer) in (200, 400)
    assert "failed" not in await proxied.counts()

  with upstream() as up, teacher() as teach:
    run(check, up, teach)
  assert "a chat failed" not in caplog.text


def test_a_compressed_body_is_not_inflated():
  bomb = gzip.compress(b" " * (8 << 20))
  line = "Content-Encoding: gzip"

  async def check(proxied):
    keyless = raw_http.chat(line, body=bomb)
    assert raw_http.status(await raw_http.send(proxied, keyless)) == 401
    keyed = raw_http.chat(line, "Authorization: Bearer sk-k", body=bomb)
    answer = await raw_http.send(proxied, keyed)
    assert raw_http.status(answer) == 415 and b"compressed" in answer

  with upstream() as up, teacher() as teach:
    run(check, up, teach, keys=Keys(client="sk-k"), client_key="sk-k")
  assert up.calls == []


@pytest.mark.parametrize("key", [b"", b"Authorization: Bearer sk-k\r\n"])
def test_the_rest_of_a_refused_body_is_not_read(key):
  """100 MB are said to come; the refusal comes without them."""
  lines = ("Content-Type: application/json", "Content-Length: 100000000")
  data = raw_http.head(*lines).replace(b"Connection: close\r\n", key)
  data += b" " * 70_000

  async def check(proxied):
    async with opened(proxied, 1, data) as ((reader, _),):
      head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
      assert raw_http.status(head) == (413 if key else 401)
      assert b"Connection: close" in head
      await asyncio.wait_for(reader.read(), 60)  # it closes

  with upstream() as up, teacher() as teach:
    keys = Keys(client="sk-k")
    run(check, up, teach, keys=keys, max_request_bytes=50_000)


def test_files_for_all_connections_are_allowed(monkeypatch):
  seen = []
  monkeypatch.setattr(resource, "setrlimit", lambda *a: seen.append(a))
  monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 476))
  connections.reserve_files()
  assert seen == [(resource.RLIMIT_NOFILE, (476, 476))]


def test_a_pipelined_flood_is_answered_in_order():
  get = raw_http.head(path="/nowhere", method="GET")
  get = get.replace(b"close", b"keep-alive")

  async def check(proxied):
    answer = await raw_http.send(proxied, get * 200 + raw_http.chat())
    assert answer.count(b" 404 ") == 200 and answer.count(b" 200 OK") == 1

  with upstream() as up, teacher() as teach:
    run(check, up, teach)
