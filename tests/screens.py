"""A console for tests: what is written to a pty, and what a person sees."""

import contextlib
import fcntl
import logging
import os
import pty
import re
import struct
import sys
import termios
import threading

from atlas_jax.terminal import Printable
from launchers import common


def seen(text: str) -> list[str]:
  """The lines of a screen after `text`: its \\r, \\n and "erase to the end"."""
  lines, at = [""], 0
  for part in re.findall(r"\x1b\[K|\r|\n|[^\x1b\r\n]+|\x1b", text):
    match part:
      case "\r":
        at = 0
      case "\n":
        lines.append("")
      case "\x1b[K":
        lines[-1] = lines[-1][:at]
      case _:
        assert part != "\x1b", "a command that no line needs"
        lines[-1] = lines[-1][:at] + part + lines[-1][at + len(part) :]
        at += len(part)
  return lines


class Screen:
  """A pty of some columns.

  Attributes:
    fd: what a program writes to.
  """

  def __init__(self, columns: int = 60):
    self._master, self.fd = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(self.fd, termios.TIOCSWINSZ, size)
    self._written, self._reader = b"", threading.Thread(target=self._read)
    self._reader.start()

  def _read(self) -> None:
    with contextlib.suppress(OSError):  # the last writer is gone
      while chunk := os.read(self._master, 4096):
        self._written += chunk

  @property
  def text(self) -> str:
    """All that has been written until now."""
    return self._written.decode(errors="replace")

  def close(self) -> str:
    """All that was ever written; nobody may hold `fd` any more."""
    os.close(self.fd)
    self._reader.join(timeout=10)
    os.close(self._master)
    return self.text


@contextlib.contextmanager
def launched(stream):
  """Standard streams and log as a launcher sets them up, on `stream`."""
  before = sys.stdout, sys.stderr, logging.root.level
  sys.stdout, sys.stderr = Printable(stream), Printable(stream)
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(common._Line())
  handler.setLevel(logging.INFO)
  logging.root.addHandler(handler)
  logging.root.setLevel(logging.INFO)
  logging.getLogger("atlas_jax").setLevel(logging.DEBUG)
  try:
    yield
  finally:
    logging.root.removeHandler(handler)
    logging.getLogger("atlas_jax").setLevel(logging.NOTSET)
    sys.stdout, sys.stderr, level = before
    logging.root.setLevel(level)
