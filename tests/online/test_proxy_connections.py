"""Connections of the proxy: odd bytes, idle ones, slow readers, and its log."""

import asyncio
import contextlib
import gzip
import logging
import resource

import pytest

from atlas_jax.config import ConfigError
from atlas_jax.online.proxy import connections
from atlas_jax.online.proxy.config import Keys, ProxyConfig
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
SHORT = raw_http.head(
  SECRET, "Content-Type: application/json", "Content-Length: 5"
)
LONG = raw_http.chat(SECRET, body=PRIVATE)

# What two servers in a row may read in two ways, or one not at all.
ODD = {
  "a space before the colon": raw_http.head(SECRET.replace(":", " :")) + PRIVATE,
  "a folded header": raw_http.head(SECRET, " sk-private-key", "X: y\r\n private"),
  "NUL": raw_http.head(SECRET + "\0"),
  "NUL in a name": raw_http.head("private\0: sk-private-key"),
  "a short Content-Length": SHORT.replace(b"close", b"keep-alive") + PRIVATE,
  "a bare LF": LONG.replace(b"\r\n", b"\n"),
  "a bare CR": LONG.replace(b"\r\n", b"\r"),
  "no colon": raw_http.head("sk-private-key"),
  "no version": b"GET /private?sk-private-key\r\n\r\n",
  "TLS": b"\x16\x03\x01\x02\x00\x01\x00sk-private-key private\r\n\r\n",
  "a long header": raw_http.head("X: " + "sk-private-key" * 5000),
  "a long target": raw_http.head(path="/private" * 5000),
  "many headers": raw_http.head(*["X: sk-private-key"] * 500),
  "CL and TE": raw_http.chat("Transfer-Encoding: chunked", SECRET, body=PRIVATE),
  "TE and CL": raw_http.head("Transfer-Encoding: chunked", "Content-Length: 4", SECRET)
  + b"0\r\n\r\nGET /private HTTP/1.1\r\n\r\n",
  "two CL": raw_http.chat("Content-Length: 4", SECRET, body=PRIVATE),
  "CL with a sign": raw_http.head("Content-Length: +5", SECRET) + PRIVATE,
  "CL as a list": raw_http.head("Content-Length: 5, 5", SECRET) + PRIVATE,
  "CL in hex": raw_http.head("Content-Length: 0x10", SECRET) + PRIVATE,
  "CL with a space": raw_http.head("Content-Length: 1 0", SECRET) + PRIVATE,
  "TE that is unknown": raw_http.head("Transfer-Encoding: xchunked", SECRET) + PRIVATE,
  "TE twice": raw_http.head("Transfer-Encoding: chunked, chunked", SECRET) + PRIVATE,
  "TE with a tab": raw_http.head("Transfer-Encoding:\x0bchunked", SECRET) + PRIVATE,
  "a chunk's size with a sign": raw_http.head("Transfer-Encoding: chunked", SECRET)
  + b"-5\r\nsk-private-key\r\n0\r\n\r\n",
  "a chunk's size that overflows": raw_http.head("Transfer-Encoding: chunked", SECRET)
  + b"fffffffffffffffff5\r\nsk-private-key\r\n0\r\n\r\n",
  "a chunk that ends early": raw_http.head("Transfer-Encoding: chunked", SECRET)
  + b"3\r\nsk-private-key\r\n0\r\n\r\n",
  "a chunk's extension": raw_http.head("Transfer-Encoding: chunked", SECRET)
  + b"1;" + b"private" * 20000 + b"\r\n{\r\n0\r\n\r\n",
}  # fmt: skip


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
  assert record.getMessage() == "BadHttpMessage (told once a minute)"
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
  assert record.getMessage() == "OSError (told once a minute)"
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
    while await held_by(up) < 3:
      await asyncio.sleep(0.01)
    async with opened(proxied, 5) as late:
      for reader, _ in late:
        with contextlib.suppress(ConnectionError):
          assert await asyncio.wait_for(reader.read(), 60) == b""
    up.latency_s = 0.0
    assert {await a for a in asked} == {("taught", "re GUIDED")}

  async def held_by(stub):
    return len(stub.calls)

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


def test_a_compressed_body_is_not_inflated():
  bomb = gzip.compress(b" " * (8 << 20))
  line = "Content-Encoding: gzip"

  async def check(proxied):
    assert (
      raw_http.status(
        await raw_http.send(proxied, raw_http.chat(line, body=bomb))
      )
      == 401
    )
    keyed = raw_http.chat(line, "Authorization: Bearer sk-k", body=bomb)
    answer = await raw_http.send(proxied, keyed)
    assert raw_http.status(answer) == 415 and b"compressed" in answer

  with upstream() as up, teacher() as teach:
    run(check, up, teach, keys=Keys(client="sk-k"), client_key="sk-k")
  assert up.calls == []


@pytest.mark.parametrize("key", [b"", b"Authorization: Bearer sk-k\r\n"])
def test_the_rest_of_a_refused_body_is_not_read(key):
  """100 MB are said to come; the refusal comes without them."""
  data = raw_http.head(
    "Content-Type: application/json", "Content-Length: 100000000"
  )
  data = data.replace(b"Connection: close\r\n", key) + b" " * 70_000

  async def check(proxied):
    async with opened(proxied, 1, data) as ((reader, writer),):
      head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
      assert raw_http.status(head) == (413 if key else 401)
      assert b"Connection: close" in head
      await asyncio.wait_for(reader.read(), 60)  # it closes

  with upstream() as up, teacher() as teach:
    keys = Keys(client="sk-k")
    run(check, up, teach, keys=keys, max_request_bytes=50_000)


def test_files_for_all_connections_are_reserved(monkeypatch):
  seen = []
  monkeypatch.setattr(resource, "setrlimit", lambda *a: seen.append(a))
  config = ProxyConfig(max_connections=100, max_concurrency=10)
  monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 476))
  connections.reserve_files(config)
  assert seen == [(resource.RLIMIT_NOFILE, (476, 476))]
  monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 475))
  with pytest.raises(ConfigError, match=r"max_connections=100 .*allows 475"):
    connections.reserve_files(config)
  infinite = (resource.RLIM_INFINITY,) * 2
  monkeypatch.setattr(resource, "getrlimit", lambda _: infinite)
  connections.reserve_files(config)
  assert len(seen) == 1


def test_a_pipelined_flood_is_answered_in_order():
  get = raw_http.head(path="/nowhere", method="GET").replace(
    b"close", b"keep-alive"
  )

  async def check(proxied):
    answer = await raw_http.send(proxied, get * 200 + raw_http.chat())
    assert answer.count(b" 404 ") == 200 and answer.count(b" 200 OK") == 1

  with upstream() as up, teacher() as teach:
    run(check, up, teach)
