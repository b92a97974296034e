"""Runs one command and ends it, with all its children, when its owner dies.

`python supervisor.py` reads one JSON line {"argv": [...], "env": {...}} from
its standard input and keeps the pipe open. The command is ended

  1. when the pipe closes (the owner closed it, or died: kill -9 included);
  2. when the owner's process is gone though something else holds the pipe;
  3. at SIGTERM or SIGINT to the supervisor;
  4. by the kernel, when the supervisor itself is killed.

It imports next to nothing: it starts in less than a tenth of a second.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 3.0  # between SIGTERM and SIGKILL


def start(argv: list[str], env: dict[str, str], output) -> subprocess.Popen:
  """A supervisor of one command, ended by closing its standard input.

  output: the file of all that both say.
  """
  process = _open(output)
  order = {"argv": argv, "env": env}
  process.stdin.write(json.dumps(order).encode() + b"\n")
  process.stdin.flush()
  return process


def _open(output) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-P", __file__],
    stdin=subprocess.PIPE,
    stdout=output,
    stderr=subprocess.STDOUT,
    start_new_session=True,
  )


def _prctl(option: int, value: int) -> None:
  if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_supervisor() -> None:
  _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
  """Processes below `pid`; none where it has ended."""
  with contextlib.suppress(psutil.NoSuchProcess):
    below = psutil.Process(pid).children(recursive=True)
    return [process.pid for process in below]
  return []


def _signal_all(child: subprocess.Popen, number: int) -> None:
  targets = descendants(os.getpid())
  with contextlib.suppress(ProcessLookupError, PermissionError):
    os.killpg(child.pid, number)
  for pid in targets:
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.kill(pid, number)


def _end(child: subprocess.Popen) -> None:
  _signal_all(child, signal.SIGTERM)
  with contextlib.suppress(subprocess.TimeoutExpired):
    child.wait(_GRACE_S)
  _signal_all(child, signal.SIGKILL)
  child.wait()


def main() -> int:
  owner = os.getppid()
  # Orphans of the command become ours, so that none is missed at the end.
  _prctl(_PR_SET_CHILD_SUBREAPER, 1)
  order = json.loads(sys.stdin.readline())
  told_to_end = []
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: told_to_end.append(True))
  child = subprocess.Popen(
    order["argv"],
    env={**os.environ, **order["env"]},
    stdin=subprocess.DEVNULL,
    start_new_session=True,
    preexec_fn=_die_with_supervisor,
  )
  while child.poll() is None:
    ready, _, _ = select.select([sys.stdin], [], [], 0.25)
    if ready and not os.read(sys.stdin.fileno(), 4096):
      break
    if told_to_end or os.getppid() != owner:
      break
  _end(child)
  return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
  sys.exit(main())
