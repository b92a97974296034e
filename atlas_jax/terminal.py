"""Spells control characters out, so that no text commands a terminal.

Answers, data, and the errors of agents and servers may hold escape sequences,
which a terminal obeys. The launchers send all of their output through here.
"""

import contextlib
import os
import re
import sys
import threading
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


_lock = threading.RLock()
# A process has one terminal, so this is one too: its last line.
_live = ""


def show_live(line: str) -> None:
  """Draws the live line on the terminal of stderr, if that is one; "" ends it.

  What is written through a Printable stands above it. The cursor waits where
  the line begins, so that what others write covers it.
  """
  global _live
  with _lock:
    if line or _live:
      _draw(line)
    _live = line


def _draw(line: str) -> None:
  if not getattr(sys.stderr, "can_redraw", False):
    return
  from rich.cells import set_cell_size

  terminal = sys.stderr.terminal
  with contextlib.suppress(OSError):  # it was closed
    columns = os.get_terminal_size(terminal.fileno()).columns or 80
    line = set_cell_size(printable(line), columns - 1).rstrip()
    terminal.write(f"\r\x1b[K{line}\r")
    terminal.flush()


class Printable:
  """A stream that writes `printable` text to `terminal`, in whole lines.

  rich writes to `terminal` itself, since its own commands must arrive.

  Attributes:
    can_redraw: whether a live line can stand here: a terminal that obeys.
  """

  def __init__(self, terminal: IO[str], can_redraw: bool = True):
    self.terminal = terminal
    self.can_redraw = can_redraw and terminal.isatty()
    self._begun = ""  # of a line that has not ended

  def write(self, text: str) -> int:
    with _lock:
      lines, end, self._begun = (self._begun + text).rpartition("\n")
      if end:
        self._put(lines + end)
    return len(text)

  def writelines(self, texts) -> None:
    self.write("".join(texts))

  def flush(self) -> None:
    with _lock:
      if self._begun:
        self._put(self._begun + ("\n" if _live else ""))
        self._begun = ""
    self.terminal.flush()

  def _put(self, text: str) -> None:
    if _live:
      _draw("")
    self.terminal.write(printable(text))
    self.terminal.flush()
    if _live:
      _draw(_live)

  def __getattr__(self, name: str):
    return getattr(self.terminal, name)
