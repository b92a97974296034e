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


class Printable:
  """A stream that writes `printable` text to `terminal`, above the live line.

  rich writes to `terminal` itself, since its own commands must arrive.

  Attributes:
    can_redraw: whether a live line can stand here: a terminal that obeys.
  """

  def __init__(self, terminal: IO[str], can_redraw: bool = True):
    self.terminal = terminal
    self.can_redraw = can_redraw and terminal.isatty()

  def write(self, text: str) -> int:
    with live_line.moved_by(self, text):
      return self.terminal.write(printable(text))

  def writelines(self, texts) -> None:
    self.write("".join(texts))

  def __getattr__(self, name: str):
    return getattr(self.terminal, name)


class LiveLine:
  """The last line of the terminal, drawn anew in place.

  What is written through a Printable stands above it. The cursor waits where
  the line begins, so that what others write covers it.
  """

  def __init__(self):
    self._lock = threading.RLock()
    self._stream: IO[str] | None = None
    self._text = ""
    self._cut: Printable | None = None  # who has not ended a line

  def show(self, text: str) -> None:
    """Draws `text` on the terminal of stderr, if it is one; "" takes it off."""
    with self._lock:
      if self._cut is None:
        self._erase()
      can_redraw = getattr(sys.stderr, "can_redraw", False)
      self._stream = sys.stderr.terminal if can_redraw else None
      self._text = text
      self._draw()

  @contextlib.contextmanager
  def moved_by(self, stream: Printable, text: str):
    """The line is off while `text` is written, and comes back below it."""
    with self._lock:
      if not (stream.can_redraw and text):
        yield
        return
      if self._cut is None:
        self._erase()
      elif self._cut is not stream:
        stream.terminal.write("\n")
      yield
      stream.terminal.flush()
      self._cut = None if text.endswith("\n") else stream
      self._draw()

  def _erase(self) -> None:
    if self._text:
      self._put("")

  def _draw(self) -> None:
    if self._text and self._cut is None:
      self._put(self._text)

  def _put(self, text: str) -> None:
    from rich.cells import set_cell_size

    if self._stream is None:
      return
    with contextlib.suppress(OSError):  # the terminal was closed
      columns = os.get_terminal_size(self._stream.fileno()).columns or 80
      line = set_cell_size(printable(text), columns - 1).rstrip()
      self._stream.write(f"\r\x1b[K{line}\r")
      self._stream.flush()


# A process has one terminal, so this is one too.
live_line = LiveLine()
