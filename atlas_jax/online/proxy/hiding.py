"""Takes the proxy's keys out of what servers say: some repeat what they got."""

import re

from atlas_jax import scrubbing
from atlas_jax.online.proxy.config import Keys

# JSON may write any character as \u0041, and "/" as "\/".
_ESCAPED = re.compile(rb"\\(?:u00([2-7][0-9a-f])|(/)|\\)", re.IGNORECASE)


class Hiding:
  """For all answers of a proxy: whole ones, or whole lines."""

  def __init__(self, keys: Keys):
    secrets = vars(keys).values()
    # Of any length in errors; in an answer a short one is honest text.
    self.in_text = scrubbing.scrubber({}, *secrets)
    self._in_answer = scrubbing.answer_scrubber({}, *secrets)

  def in_answer(self, content: bytes) -> bytes:
    """A whole answer, or a line of one."""
    return _scrubbed(content, self._in_answer)

  def in_body(self, status: int, content: bytes) -> bytes:
    """The body of an answer or of an error."""
    scrub = self._in_answer if status == 200 else self.in_text
    return _scrubbed(content, scrub)


def _scrubbed(content: bytes, scrub) -> bytes:
  if b"\\" in content:
    content = _ESCAPED.sub(_unescaped, content)
  text = content.decode(errors="surrogateescape")
  return scrub(text).encode(errors="surrogateescape")


def _unescaped(found: re.Match) -> bytes:
  """What is escaped, in its shortest form."""
  code, slash = found.groups()
  plain = slash or (bytes([int(code, 16)]) if code else b"\\")
  return b"\\" + plain if plain in b'"\\' else plain
