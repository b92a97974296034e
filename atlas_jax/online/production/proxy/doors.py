"""Which requests are answered: those of clients, and not of web pages.

A browser reaches a proxy on its own machine for any page, by a name of the
page's own as well (DNS rebinding). So without a key that clients show:

  1. Host names this machine, config.host or one of config.allowed_hosts, at
     any port;
  2. where a browser says that another page asks (Origin, Sec-Fetch-Site),
     the request is refused, unless config.allow_origins names the page.

With a key or without: the target is a path (that Host stands there once, the
web framework sees to), a chat is application/json, which no page may send
unasked, and is not compressed. CORS headers are sent to the pages of
config.allow_origins alone.

A body is read before its request takes a place in the proxy, and is given up
at its deadline, so that slow clients hold nobody up. All that are being read
or answered may take config.max_held_bytes together, as large as they are in
memory once they are parsed; what comes above that is refused for now.
"""

import asyncio
import contextlib
import functools
import hmac
import re

from aiohttp import web

from atlas_jax.addresses import is_loopback
from atlas_jax.online.calls import chat_json
from atlas_jax.online.production.proxy import errors
from atlas_jax.online.production.proxy.config import Keys, ProxyConfig
from atlas_jax.online.production.proxy.errors import Refused

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d{1,5})?", re.I | re.A)
_OWN_PAGE = {"same-origin", "none"}
_HEADER_NAMES = re.compile(r"[\w-]+(?:, ?[\w-]+)*", re.A)
# What a chat takes in memory: its text, parsed and sent on, and each value.
_OF_A_BYTE = 8
_OF_A_PART = 128


class Doors:
  """For one event loop. Each method raises Refused."""

  def __init__(self, config: ProxyConfig, keys: Keys):
    self._config = config
    self._key = None if keys.client is None else keys.client.encode()
    self._names = {n.lower() for n in (config.host, *config.allowed_hosts)}
    # Clients name one host again and again.
    self._is_known = functools.lru_cache(maxsize=64)(self._names_us)
    self._origins = set(config.allow_origins)
    self._held = 0

  def check_sender(self, request: web.Request) -> None:
    """Refuses what no client sends, and without a key what a page may send."""
    if not request.raw_path.startswith("/"):
      raise Refused(400, "the target must be a path")
    if self._key is not None:
      return
    host = request.headers.get("Host", "")
    if not self._is_known(host):
      raise Refused(403, "Host names neither this machine nor an allowed host")
    if self._allowed_page(request) is not None:
      return
    origin = request.headers.getall("Origin", ())
    sites = request.headers.getall("Sec-Fetch-Site", ())
    if (origin and set(origin) != {f"http://{host}"}) or (
      sites and not _OWN_PAGE.issuperset(sites)
    ):
      raise Refused(403, "web pages of other sites may not ask")

  def _names_us(self, host: str) -> bool:
    found = _HOST.fullmatch(host)
    name = (found[1] or found[2]).lower() if found else None
    return is_loopback(name) or name in self._names

  def _allowed_page(self, request: web.Request) -> str | None:
    """The origin of a page that config.allow_origins names."""
    origins = request.headers.getall("Origin", ()) if self._origins else ()
    allowed = len(origins) == 1 and origins[0] in self._origins
    return origins[0] if allowed else None

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

  def check_body(self, request: web.Request) -> None:
    """Refuses a chat that is not plain JSON, before it is read."""
    if request.content_type != errors.JSON:
      raise Refused(415, "Content-Type must be application/json")
    if request.headers.get("Content-Encoding", "identity") != "identity":
      raise Refused(415, "the body must not be compressed")

  async def body(self, request: web.Request) -> tuple[bytes, int]:
    """(the body, what to `free` when its chat is over)."""
    config, content = self._config, request.content
    body, held = bytearray(), 0
    timer = None
    if not content.is_eof():  # most bodies have come with their head
      timer = asyncio.timeout(config.body_timeout_s)
    try:
      async with timer or contextlib.nullcontext():
        while piece := await content.readany():
          body += piece
          held += self._hold(len(piece))
          if len(body) > config.max_request_bytes:
            reason = f"the body is over {config.max_request_bytes} bytes"
            raise Refused(413, reason)
      parts = chat_json.parts_of(body)
      if parts > chat_json.MOST_PARTS:
        reason = f"the body has over {chat_json.MOST_PARTS} values"
        raise Refused(413, reason)
      held += self._hold(_OF_A_BYTE * len(body) + _OF_A_PART * parts)
      return bytes(body), held
    except BaseException as reason:
      self.free(held)
      if not isinstance(reason, TimeoutError):
        raise
      late = f"the body took over {config.body_timeout_s:g} s"
      raise Refused(408, late) from None

  def _hold(self, size: int) -> int:
    if self._held + size > self._config.max_held_bytes:
      raise Refused(*errors.FULL)
    self._held += size
    return size

  def free(self, size: int) -> None:
    """Gives back what a body took."""
    self._held -= size
