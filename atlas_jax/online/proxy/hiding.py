"""Takes the proxy's keys out of what servers say: some repeat what they got."""

import asyncio

from atlas_jax import scrubbing
from atlas_jax.online.proxy.config import Keys

_LARGE = 64 << 10  # such a text is searched beside the event loop


class Hiding:
  """For all answers of a proxy: whole ones, or whole lines."""

  def __init__(self, keys: Keys):
    secrets = vars(keys).values()
    # Of any length in errors; in an answer a short one is honest text.
    self.in_text = scrubbing.scrubber({}, *secrets)
    self._in_answer = scrubbing.answer_scrubber({}, *secrets)

  async def in_body(self, content: bytes, status: int = 200) -> bytes:
    """What a server sent with this status, or a line of it."""
    scrub = self._in_answer if status == 200 else self.in_text
    text = content.decode(errors="surrogateescape")
    if len(text) > _LARGE:
      text = await asyncio.to_thread(scrub, text)
    else:
      text = scrub(text)
    return text.encode(errors="surrogateescape")
