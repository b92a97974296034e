"""Takes the proxy's keys out of what servers say: some repeat what they got."""

import asyncio
from collections.abc import Callable, Iterator

from atlas_jax import scrubbing
from atlas_jax.online.proxy.config import Keys

_LONGEST_ERROR = 1 << 20  # bytes; the words of a longer one are lost
# A larger text is searched beside the event loop, and so much at a time: the
# search takes 30 times its size in memory.
_WINDOW = 64 << 10


class Hiding:
  """For all answers of a proxy: whole ones, or whole lines."""

  def __init__(self, keys: Keys):
    secrets = vars(keys).values()
    self._any = any(secrets)
    # Of any length in errors; in an answer a short one is honest text.
    self.in_text = scrubbing.scrubber({}, *secrets)
    self._in_answer = scrubbing.answer_scrubber({}, *secrets)

  async def in_body(self, content: bytes, status: int = 200) -> bytes:
    """What a server sent with this status, or a line of it."""
    if status != 200 and len(content) > _LONGEST_ERROR:
      return b""
    if not self._any:
      return content
    scrub = self._in_answer if status == 200 else self.in_text
    if len(content) <= _WINDOW:
      return _scrubbed(content, scrub)
    return await asyncio.to_thread(_scrubbed, content, scrub)


def _scrubbed(content: bytes, scrub: Callable[[str], str]) -> bytes:
  found = []
  for window in _windows(content):
    text = scrub(window.decode(errors="surrogateescape"))
    found.append(text.encode(errors="surrogateescape"))
  return b"".join(found)


def _windows(content: bytes) -> Iterator[bytes]:
  """All of it, cut behind quotes of JSON where there are any: not in a key."""
  start = 0
  while start < len(content):
    least, most = start + _WINDOW, start + 2 * _WINDOW
    end = content.find(b'"', least, most) + 1 or most
    yield content[start:end]
    start = end
