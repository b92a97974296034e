"""The log file of a server, and what an error message says about it."""

import re
from pathlib import Path

_LINES = 25
# The last line of a traceback, plain or behind the mark of vLLM's log; for
# pydantic with the line that says what is wrong.
_ERROR = re.compile(
  r"(?:^|\] )((?:\w+\.)*\w*(?:Error|Exception): \S.*(?:\n +Value error.*)?)",
  re.MULTILINE,
)
_LONGEST = 400  # characters of it


class ServerLog:
  """One file that grows over restarts; only the last start is quoted."""

  def __init__(self, path: Path):
    self.path = path
    self._begin: int | None = None  # None: nothing was started

  def open(self):
    """The file, to be written by the process that starts now."""
    self.path.parent.mkdir(parents=True, exist_ok=True)
    file = self.path.open("ab")
    self._begin = file.tell()
    return file

  def text(self) -> str:
    """All that was logged since the last `open`; empty before it."""
    if self._begin is None:
      return ""
    with self.path.open("rb") as f:
      f.seek(self._begin)
      return f.read().decode(errors="replace")

  def explain(self) -> str:
    """The first error and the last lines, to end an error message with."""
    if self._begin is None:
      return ""
    text, first = self.text(), ""
    # The first error is the cause; tracebacks of those who waited follow.
    cause = _ERROR.search(text)
    if cause:
      first = ": " + " ".join(cause[1].split())[:_LONGEST]
    last = "\n".join(text.splitlines()[-_LINES:])
    return f"{first}\nThe end of {self.path}:\n{last}"
