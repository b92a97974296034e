"""Reads the bodies of requests, before these take a place in the proxy.

A body is given up at its deadline, so that slow clients hold nobody up. All
that are being read or answered may take max_held_bytes together, as large as
they are in memory once they are parsed. What comes above that is told to come
back.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from atlas_jax.online import chat_json
from atlas_jax.online.proxy import errors
from atlas_jax.online.proxy.config import ProxyConfig

# What a chat takes: its text, parsed and sent on, and each value in it.
_OF_A_BYTE = 8
_OF_A_PART = 128


class Bodies:
  """For one event loop."""

  def __init__(self, config: ProxyConfig):
    self._deadline_s = config.body_timeout_s
    self._largest = config.max_request_bytes
    self._most = config.max_held_bytes
    self._held = 0

  @contextlib.asynccontextmanager
  async def read(self, request: web.Request) -> AsyncIterator[bytes]:
    """The body, which counts as held while this is entered.

    Raises:
      Refused: it is late, too large, or one too many.
    """
    body, held = bytearray(), 0

    def hold(size: int) -> None:
      nonlocal held
      held += size
      self._held += size
      if self._held > self._most:
        raise errors.Refused(*errors.FULL)

    try:
      try:
        async with asyncio.timeout(self._deadline_s):
          async for piece in request.content.iter_any():
            body += piece
            hold(len(piece))
            if len(body) > self._largest:
              reason = f"the body is over {self._largest} bytes"
              raise errors.Refused(413, reason)
      except TimeoutError:
        reason = f"the body took over {self._deadline_s:g} s"
        raise errors.Refused(408, reason) from None
      parts = chat_json.parts_of(body)
      if parts > chat_json.MOST_PARTS:
        reason = f"the body has over {chat_json.MOST_PARTS} values"
        raise errors.Refused(413, reason)
      hold(_OF_A_BYTE * len(body) + _OF_A_PART * parts)
      yield bytes(body)
    finally:
      self._held -= held
