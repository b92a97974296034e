"""The policy of serving/http.py for libraries that bring an httpx client.

An answer that is not taken becomes a refusal, HTTP 400 with one line as its
text: these libraries raise that as what it is and do not ask again. An
exception from here they would take for a lost connection.
"""

import contextlib
import contextvars
import http.cookiejar
import json
import zlib
from dataclasses import dataclass

import httpx
from httpx._utils import URLPattern

from atlas_jax.serving.http import Redirected, TooLarge, Untaken

_THIS_MACHINE = ("127.0.0.1", "localhost", "[::1]")


@dataclass
class Taking:
  """What one call takes, and what was refused; clients are shared by calls."""

  most_bytes: int
  refused: Untaken | None = None

  def __post_init__(self):
    _TAKING.set(self)


_NO_COOKIES = http.cookiejar.DefaultCookiePolicy(allowed_domains=())
_TAKING: contextvars.ContextVar[Taking] = contextvars.ContextVar("taking")


def bind(client: httpx.AsyncClient | httpx.Client):
  """`client`, without redirects and cookies; it reads up to `most_bytes`.

  It obeys the proxies of the environment, but for servers on this machine.
  A client that blocks is not bounded; no chat of ours goes by one.
  """
  client.follow_redirects = False
  client.cookies.jar.set_policy(_NO_COOKIES)
  # LiteLLM's transport chooses a proxy by itself, httpx by these mounts.
  straight = getattr(client._transport, "proxy_cache", {})
  straight |= dict.fromkeys(_THIS_MACHINE)
  mounts = {URLPattern(f"all://{h}"): None for h in _THIS_MACHINE}
  client._mounts = mounts | client._mounts
  hooks = client.event_hooks
  if isinstance(client, httpx.AsyncClient) and _take not in hooks["response"]:
    client.headers["Accept-Encoding"] = "gzip, deflate"
    client.event_hooks = hooks | {"response": [_take, *hooks["response"]]}
  return client


def bound(make):
  """A function that makes clients, which are bound."""
  return lambda *args, **how: bind(make(*args, **how))


async def _take(response: httpx.Response) -> None:
  """Reads the body before anyone else does."""
  taking = _TAKING.get(None)
  if taking is None:  # a call of the user's own, by a client that is shared
    return
  try:
    content = await _content(response, taking.most_bytes)
  except Untaken as error:
    taking.refused, response.status_code = error, 400
    content = json.dumps({"error": {"message": str(error)}}).encode()
  for name in ("Content-Encoding", "Content-Length", "Transfer-Encoding"):
    response.headers.pop(name, None)
  response.stream = httpx.ByteStream(content)


async def _content(response: httpx.Response, most_bytes: int) -> bytes:
  async with contextlib.aclosing(response.stream) as stream:
    location = response.headers.get("Location")
    if response.status_code // 100 == 3 and location is not None:
      asked, status = response.request, response.status_code
      raise Redirected(str(asked.url), status, location, asked.headers)
    encoding = response.headers.get("Content-Encoding", "").lower()
    encoded = encoding in ("gzip", "deflate")
    inflate, content = zlib.decompressobj(wbits=47), bytearray()
    async for part in stream:
      content += inflate.decompress(part, most_bytes + 1) if encoded else part
      if len(content) > most_bytes:
        raise TooLarge(most_bytes)
    return bytes(content)
