"""Kills the process groups that its owner leaves behind.

`python group_killer.py` reads lines from its standard input: +PGID notes a
group, -PGID forgets it. When the pipe closes, or the owner is gone though
something else holds the pipe (kill -9 included), it kills the groups that are
still noted. Standard library only: it starts in a few hundredths of a second.
"""

import contextlib
import os
import select
import signal

_LOOK_S = 0.5  # between two looks for the owner


def main() -> None:
  owner = os.getppid()
  groups: set[int] = set()
  rest = b""
  while os.getppid() == owner:
    if not select.select([0], [], [], _LOOK_S)[0]:
      continue
    content = os.read(0, 4096)
    if not content:
      break
    *lines, rest = (rest + content).split(b"\n")
    for line in lines:
      change = groups.add if line[:1] == b"+" else groups.discard
      change(int(line[1:]))
  for group in groups:
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
  main()
