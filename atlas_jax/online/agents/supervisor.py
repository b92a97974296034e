"""Runs a command in a process group of its own, and kills what is left of it.

  python supervisor.py OWNER FILE LC_CTYPE COMMAND [ARGUMENT ...]

The group is killed when the command ends, when SIGTERM comes, or when the
process OWNER, which started this one, is gone (kill -9 included). FILE then
holds how the command ended: its status, below 0 a signal, or why it did not
start. LC_CTYPE is the command's, which Python sets for itself where the locale
is C. Standard library only: it starts in a few hundredths of a second.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

_LOOK_S = 0.05  # between two looks for the owner


def main() -> None:
  owner, file, locale, *argv = sys.argv[1:]
  if not locale:
    os.unsetenv("LC_CTYPE")
  stopped = []
  # Only noted: the command may be about to start.
  signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
  try:
    command = subprocess.Popen(argv, start_new_session=True)
  except (OSError, ValueError) as error:
    pathlib.Path(file).write_text(f"{argv[0]} does not start: {error}")
    return
  while command.returncode is None and not stopped:
    if os.getppid() != int(owner):
      break
    try:
      command.wait(_LOOK_S)
    except subprocess.TimeoutExpired:
      continue
  with contextlib.suppress(ProcessLookupError):
    os.killpg(command.pid, signal.SIGKILL)
  pathlib.Path(file).write_text(str(command.wait()))


if __name__ == "__main__":
  main()
