"""The events of an answer on their way from the upstream to a client."""

import asyncio
import re
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from atlas_jax.online.calls.chat_json import begins_well
from atlas_jax.online.production.proxy import errors

_LONGEST_START = 1 << 16  # bytes of a stream that say nothing
# The event after which a client may leave at once: nothing comes any more.
_DONE = re.compile(rb"[\r\n]data: ?\[DONE\]")


async def begun(
  first: bytes | None, pieces: AsyncIterator[bytes]
) -> bytes | None:
  """A stream up to its first word; None: it has none, or is an error."""
  while first is not None:
    well = begins_well(first)
    if well or (well is None and len(first) > _LONGEST_START):
      return first
    more = None if well is False else await anext(pieces, None)
    first = None if more is None else first + more
  return None


async def write(
  request: web.Request,
  piece: bytes | None,
  pieces: AsyncIterator[bytes],
  response: web.StreamResponse,
) -> str | None:
  """Passes on each piece as it comes; None, or how it ended badly.

  Args:
    request: of the client.
    piece: the first one.
    pieces: the others, of the upstream.
    response: to the client.

  The status is out already, so a client reads of an upstream that breaks off
  in an event that holds an error.
  """
  ended, tail = None, b"\n"
  try:
    await response.prepare(request)
    while piece is not None:
      await response.write(piece)
      tail = tail[-16:] + piece
      if ended:
        break
      try:
        piece = await anext(pieces, None)
      except (aiohttp.ClientError, TimeoutError) as reason:
        ended = "failed"
        text = errors.no_answer(reason).text
        piece = f"\n\ndata: {text}\n\n".encode()
    await response.write_eof()
  except (ConnectionResetError, asyncio.CancelledError) as left:
    # By the client: the upstream's breaks are above.
    if ended is None and not _DONE.search(tail):
      if isinstance(left, asyncio.CancelledError):
        raise
      ended = "cancelled"
  return ended
