"""Reads the bodies of requests, before these take a place in the proxy.

A body is given up at its deadline, so that slow clients hold nobody up. All
that are being read together may be as large as those of the chats that the
proxy holds: config.max_concurrency * config.max_request_bytes. What comes
above that is told to come back.
"""

import asyncio

from aiohttp import web

from atlas_jax.online.proxy import errors
from atlas_jax.online.proxy.config import ProxyConfig


class Bodies:
  """For one event loop."""

  def __init__(self, config: ProxyConfig):
    self._deadline_s = config.body_timeout_s
    self._largest = config.max_request_bytes
    self._most = config.max_concurrency * config.max_request_bytes
    self._held = 0

  async def read(self, request: web.Request) -> bytes:
    """The body.

    Raises:
      Refused: it is late, too large, or one too many.
    """
    body = bytearray()
    try:
      async with asyncio.timeout(self._deadline_s):
        async for piece in request.content.iter_any():
          body += piece
          self._held += len(piece)
          if len(body) > self._largest:
            message = f"the body is over {self._largest} bytes"
            raise errors.refused(413, message, "invalid_request_error")
          if self._held > self._most:
            raise errors.full()
    except TimeoutError:
      message = f"the body took over {self._deadline_s:g} s"
      late = errors.refused(408, message, "invalid_request_error")
      # No connection to wait for another request.
      late.response.force_close()
      raise late from None
    finally:
      self._held -= len(body)
    return bytes(body)
