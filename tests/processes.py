"""Processes that a test started: whether they run, and waiting for them."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable


def running(pid: int) -> bool:
  """Whether the process exists and is no zombie."""
  try:
    state = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return state.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
  """Whether the condition came to hold within so many seconds."""
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    if condition():
      return True
    time.sleep(0.05)
  return False


def all_end(pids: Iterable[int], seconds: float = 10.0) -> bool:
  """Whether all these processes end within so many seconds."""
  pids = list(pids)
  return wait_until(lambda: not any(map(running, pids)), seconds)


def kill(pid: int, number: int) -> None:
  """Sends a signal to a process that may have ended."""
  with contextlib.suppress(ProcessLookupError):
    os.kill(pid, number)


def told(workers, outputs: Iterable[str]) -> list:
  """What each worker printed as JSON behind RESULT; all ended well."""
  found = []
  for worker, output in zip(workers, outputs, strict=True):
    assert worker.returncode == 0, output[-4000:]
    (line,) = [x for x in output.splitlines() if x.startswith("RESULT ")]
    found.append(json.loads(line.removeprefix("RESULT ")))
  return found
