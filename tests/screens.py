"""A terminal for tests: what is written to a pty, and what a person sees."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
import threading


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
