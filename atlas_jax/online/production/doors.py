"""Who gets in: clients, and not web pages, in bounded numbers and sizes.

1. max_connections at most: one more ends the oldest one that asks nothing, or
   is itself closed where all are being answered. Who sends no whole head of a
   request in idle_timeout_s is closed, and who takes nothing of an answer in
   write_timeout_s (where the system has TCP_USER_TIMEOUT: Linux), which ends
   the upstream's work too.
2. A browser reaches a proxy on its own machine for any page, by a name of the
   page's own as well (DNS rebinding). So without a key that clients show, Host
   names this machine, config.host or one of config.allowed_hosts, at any port;
   and where a browser says that another page asks (Origin, Sec-Fetch-Site), the
   request is refused, unless config.allow_origins names the page. CORS headers
   are sent to those pages alone.
3. With a key or without, the target is a path (that Host stands there once, the
   web framework sees to), a chat is application/json, which no page may send
   unasked, and is not compressed.
4. A body is read before its request takes a place in the proxy, and is given up
   at its deadline. All that are being read or answered may take max_held_bytes
   together, as large as they are in memory once they are parsed; what comes
   above that is refused for now.
5. Of a record of the web framework its kind is logged, once a minute: its words
   repeat what was sent, keys and questions among it.
"""

import asyncio
import contextlib
import hmac
import logging
import re
import resource
import socket
import time
from collections.abc import AsyncIterator, Set

from aiohttp import web

from atlas_jax.addresses import is_loopback
from atlas_jax.online.calls import chat_json
from atlas_jax.online.production import errors
from atlas_jax.online.production.config import Keys, ProxyConfig
from atlas_jax.online.production.errors import Refused

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d{1,5})?", re.I | re.A)
_HEADER_NAMES = re.compile(r"[\w-]+(?:, ?[\w-]+)*", re.A)
# What a chat takes in memory: its text, parsed and sent on, and each value.
_OF_A_BYTE = 8
_OF_A_PART = 128
_LIBRARIES = ("server", "web", "client", "internal", "access", "websocket")
_LOGGERS = ("asyncio", *(f"aiohttp.{name}" for name in _LIBRARIES))
_AGAIN_S = 60.0
# The rest of a refused body is thrown away for so long: a client that is
# still sending when the connection closes never reads why.
_LINGER_S = 1.0


class Doors:
  """For one event loop. Each method raises Refused."""

  def __init__(self, config: ProxyConfig, keys: Keys):
    self._config = config
    self._key = None if keys.client is None else keys.client.encode()
    self._names = {n.lower() for n in (config.host, *config.allowed_hosts)}
    self._held = 0

  def check_sender(self, request: web.Request) -> None:
    """Refuses what no client sends, and without a key what a page may send."""
    if not request.raw_path.startswith("/"):
      raise Refused(400, "the target must be a path")
    if self._key is not None:
      return
    host = request.headers.get("Host", "")
    if not self._names_us(host):
      raise Refused(403, "Host names neither this machine nor an allowed host")
    if self._allowed_page(request) is not None:
      return
    origins = set(request.headers.getall("Origin", ()))
    sites = set(request.headers.getall("Sec-Fetch-Site", ()))
    if origins - {f"http://{host}"} or sites - {"same-origin", "none"}:
      raise Refused(403, "web pages of other sites may not ask")

  def _names_us(self, host: str) -> bool:
    found = _HOST.fullmatch(host)
    name = (found[1] or found[2]).lower() if found else None
    return is_loopback(name) or name in self._names

  def _allowed_page(self, request: web.Request) -> str | None:
    """The origin of a page that config.allow_origins names."""
    allowed = self._config.allow_origins
    origins = request.headers.getall("Origin", ()) if allowed else ()
    return origins[0] if len(origins) == 1 and origins[0] in allowed else None

  def preflight(self, request: web.Request) -> web.Response | None:
    """The answer to a browser that asks whether a page may ask."""
    if request.method != "OPTIONS" or self._allowed_page(request) is None:
      return None
    headers = {"Access-Control-Allow-Methods": "GET, POST"}
    names = request.headers.get("Access-Control-Request-Headers", "")
    if _HEADER_NAMES.fullmatch(names):
      headers["Access-Control-Allow-Headers"] = names
    return web.Response(status=204, headers=headers)

  async def add_cors(self, request, response: web.StreamResponse) -> None:
    """Lets an allowed page read a response that is about to be sent."""
    if (page := self._allowed_page(request)) is not None:
      response.headers["Access-Control-Allow-Origin"] = page
      response.headers["Access-Control-Expose-Headers"] = "*"
    response.headers.add("Vary", "Origin")

  def knows_key(self, request: web.Request) -> bool:
    """Whether a client shows the key; without one: is on this machine."""
    if self._key is None:
      return is_loopback(request.remote)
    shown = request.headers.get("Authorization", "")
    scheme, _, key = shown.partition(" ")
    right = hmac.compare_digest(key.encode(errors="surrogateescape"), self._key)
    return right and scheme.lower() == "bearer"

  def check_key(self, request: web.Request) -> None:
    if self._key is not None and not self.knows_key(request):
      raise Refused(*errors.WRONG_KEY)

  @contextlib.asynccontextmanager
  async def body(self, request: web.Request) -> AsyncIterator[bytes]:
    """The body of a chat, whose bytes are held while this is entered."""
    if request.content_type != errors.JSON:
      raise Refused(415, "Content-Type must be application/json")
    if request.headers.get("Content-Encoding", "identity") != "identity":
      raise Refused(415, "the body must not be compressed")
    most, wait_s = self._config.max_request_bytes, self._config.body_timeout_s
    body, held = bytearray(), 0
    try:
      try:
        # Most bodies have come with their head: no clock is needed for them.
        late = None if request.content.is_eof() else wait_s
        async with asyncio.timeout(late):
          while piece := await request.content.readany():
            body += piece
            held += self._hold(len(piece))
            if len(body) > most:
              raise Refused(413, f"the body is over {most} bytes")
      except TimeoutError:
        raise Refused(408, f"the body took over {wait_s:g} s") from None
      parts = chat_json.parts_of(body)
      if parts > chat_json.MOST_PARTS:
        raise Refused(413, f"the body has over {chat_json.MOST_PARTS} values")
      held += self._hold(_OF_A_BYTE * len(body) + _OF_A_PART * parts)
      yield bytes(body)
    finally:
      self._held -= held

  def _hold(self, size: int) -> int:
    if self._held + size > self._config.max_held_bytes:
      raise Refused(*errors.FULL)
    self._held += size
    return size


class _Wordless(logging.Filter):
  """Leaves of a record its kind, and of each kind one a minute."""

  def __init__(self):
    super().__init__()
    self._next: dict[str, float] = {}

  def filter(self, record: logging.LogRecord) -> bool:
    error = (record.exc_info or (None,))[0]
    kind = record.levelname if error is None else error.__name__
    now = time.monotonic()
    if now < self._next.get(f"{record.name} {kind}", now):
      return False
    self._next[f"{record.name} {kind}"] = now + _AGAIN_S
    record.msg, record.args = f"{kind} (logged once a minute)", ()
    record.exc_info = record.exc_text = record.stack_info = None
    return True


class _NoRoom(asyncio.Protocol):
  def connection_made(self, transport) -> None:
    transport.abort()


def reserve_files() -> None:
  """Lets this process open as many files as the system allows it."""
  _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.asynccontextmanager
async def listening(
  app: web.Application, busy: Set, config: ProxyConfig
) -> AsyncIterator[asyncio.Server]:
  """Serves the application while it is entered.

  Handlers are cancelled when their client goes away, and bodies come as they
  are sent: compressed ones are not inflated.

  Args:
    app: whose handlers keep `busy`.
    busy: the connections whose requests are being answered.
    config: of the proxy.
  """

  def connect():
    """The protocol of a new connection."""
    connections = runner.server.connections
    if len(connections) >= config.max_connections:
      idle = (c for c in connections if c.connected and c not in busy)
      oldest = next(idle, None)
      if oldest is None:
        return _NoRoom()
      oldest.force_close()
    return runner.server()

  wordless = _Wordless()
  for name in _LOGGERS:
    logging.getLogger(name).addFilter(wordless)
  runner = web.AppRunner(
    app,
    access_log=None,
    auto_decompress=False,
    handler_cancellation=True,
    keepalive_timeout=config.idle_timeout_s,
    lingering_time=_LINGER_S,
    shutdown_timeout=config.drain_s,
  )
  try:
    await runner.setup()
    door = await asyncio.get_running_loop().create_server(
      connect, config.host, config.port, start_serving=False
    )
    with contextlib.closing(door):
      for listener in door.sockets:
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # for all that it accepts
          most_ms = int(1000 * config.write_timeout_s)
          listener.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, most_ms
          )
      await door.start_serving()
      yield door
  finally:
    await runner.cleanup()
    for name in _LOGGERS:
      logging.getLogger(name).removeFilter(wordless)
