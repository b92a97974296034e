"""Spells control characters out, so that no text commands a terminal.

Answers, data, and the errors of agents and servers may hold escape sequences,
which a terminal obeys. The launchers send all of their output through here.
"""

import re
from typing import IO

# C0 but for tab and newline, DEL, C1; what turns, breaks or hides a line;
# halves of surrogate pairs, which no stream can encode.
_COMMANDS = re.compile(
  "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
  "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
  """`text` with each control character spelled, as \\x1b for escape."""
  return _COMMANDS.sub(
    lambda m: m[0].encode("unicode_escape").decode("ascii"), text
  )


class Printable:
  """A stream that writes `printable` text to `terminal`.

  rich writes to `terminal` itself, since its own commands must arrive.
  """

  def __init__(self, terminal: IO[str]):
    self.terminal = terminal

  def write(self, text: str) -> int:
    return self.terminal.write(printable(text))

  def writelines(self, texts) -> None:
    self.write("".join(texts))

  def __getattr__(self, name: str):
    return getattr(self.terminal, name)
