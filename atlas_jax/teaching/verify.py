"""Comparisons that may hang, in processes that may be killed.

math-verify reaches sympy's parser and reasoning-gym runs a task's own code:
both can loop for ever or fill the memory on an odd answer. Each comparison
therefore has a deadline in a process of its own; one that is late is killed,
and another process takes its place. What runs there reads what a model says,
so the process is locked (lock.py), and its replies are data, not pickles.
Functions of the user's own (own.py) are trusted with files, processes and
sockets: theirs is a group of processes of its own, and has the deadline alone.
"""

import contextlib
import functools
import json
import logging
import multiprocessing
import os
import pickle
import queue
import resource
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from atlas_jax.teaching import families, lock, own

_START_S = 120.0  # for the imports of a new process
_MEMORY_BYTES = 6 << 30
_LONGEST_REPLY = 8192  # bytes
_log = logging.getLogger(__name__)


class VerifierTimeout(RuntimeError):
  """No verdict before the deadline."""


class VerifierFailed(RuntimeError):
  """The comparison itself raised; the text holds its error."""


def _math(gold: str, answer: str) -> bool:
  from atlas_jax.teaching import formulas  # sympy: for these processes alone

  return formulas.equal(gold, answer)


@dataclass(frozen=True)
class Job:
  """A kind of comparison."""

  right: Callable[..., object]  # returns what JSON holds
  prepare: Callable[[], object]  # the imports, before the clock runs
  locked: bool = True


def _import_reasoning_gym() -> None:
  import reasoning_gym  # noqa: F401


_JOBS = {
  "math": Job(_math, functools.partial(_math, "1", "1")),
  "reasoning_gym": Job(families.right, _import_reasoning_gym),
  "own": Job(own.call, os.setpgrp, locked=False),
}


def _serve(connection: socket.socket, job: Job, deadline_s: float) -> None:
  """The life of a process: import, lock, say so, answer until the end."""
  if job.locked:
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
  else:  # a daemon could not have children by multiprocessing
    multiprocessing.current_process()._config["daemon"] = False
  cores = 1 if job.locked else os.cpu_count()
  _, most_s = resource.getrlimit(resource.RLIMIT_CPU)
  job.prepare()
  end = connection.detach()

  def reply(*message):
    os.write(end, json.dumps(message).encode() + b"\n")

  with (
    contextlib.suppress(EOFError, KeyboardInterrupt),
    open(end, "rb") as requests,
  ):
    reply("ready", lock.take(end) if job.locked else "")
    while True:
      arguments = pickle.load(requests)
      # Ends it also where its parent is gone.
      spent_s = int(time.process_time() + deadline_s * cores) + 2
      resource.setrlimit(resource.RLIMIT_CPU, (spent_s, most_s))
      try:
        reply("done", job.right(*arguments))
      except BaseException as error:
        reply("failed", f"{type(error).__name__}: {error}"[:500])


@functools.cache
def _warn_of_no_lock(why: str) -> None:
  _log.warning("the processes that judge answers are not locked: %s", why)


class _Worker:
  def __init__(self, kind: str, deadline_s: float):
    context = multiprocessing.get_context("spawn")
    self._connection, theirs = socket.socketpair()
    self._process = context.Process(
      target=_serve, args=(theirs, _JOBS[kind], deadline_s), daemon=True
    )
    self._process.start()
    theirs.close()
    try:
      no_lock = self._exchange(b"", _START_S)
    except (VerifierTimeout, VerifierFailed):
      self.kill()
      raise VerifierFailed(f"the {kind} verifier did not start") from None
    if no_lock:
      _warn_of_no_lock(no_lock)

  def ask(self, arguments, deadline_s: float):
    return self._exchange(pickle.dumps(arguments), deadline_s)

  def _exchange(self, request: bytes, deadline_s: float):
    """The value of the reply: one line of JSON, bounded in size and time."""
    end = time.monotonic() + deadline_s
    line = b""
    try:
      self._connection.settimeout(deadline_s)
      self._connection.sendall(request)
      while not line.endswith(b"\n"):
        self._connection.settimeout(max(end - time.monotonic(), 1e-3))
        part = self._connection.recv(_LONGEST_REPLY)
        line += part
        if not part or len(line) > _LONGEST_REPLY:
          raise VerifierFailed("the verifier process died")
      state, value = json.loads(line)
    except TimeoutError:
      raise VerifierTimeout(f"no verdict in {deadline_s:g} s") from None
    except (OSError, ValueError, TypeError, RecursionError):
      raise VerifierFailed("the verifier process died") from None
    if state == "failed":
      raise VerifierFailed(value)
    return value

  @property
  def alive(self) -> bool:
    return self._process.is_alive()

  def kill(self) -> None:
    with contextlib.suppress(ProcessLookupError):  # it leads no group
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.kill()
    self._process.join()
    self._connection.close()


class VerifierPool:
  """Up to `processes` processes of each kind, started when first needed.

  Safe to use from several threads. Use it as a context, or call close.
  """

  def __init__(self, *, processes: int = 2, deadline_s: float = 3.0):
    self._deadline_s = deadline_s
    # A place is a worker, or None where none has been started.
    self._places = {kind: queue.LifoQueue() for kind in _JOBS}
    self._processes = processes
    for places in self._places.values():
      for _ in range(processes):
        places.put(None)

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  def close(self) -> None:
    """Ends the processes, each when its comparison has ended."""
    for places in self._places.values():
      for worker in [places.get() for _ in range(self._processes)]:
        if worker is not None:
          worker.kill()
        places.put(None)

  def math_equal(self, gold: str, answer: str) -> bool:
    """Whether two mathematical expressions are equal, by math-verify.

    Raises:
      VerifierTimeout, VerifierFailed: there is no verdict.
    """
    return self._ask("math", (gold, answer))

  def reasoning_gym(self, task: str, entry: Mapping, answer: str) -> bool:
    """Whether a task's own scorer gives the answer its full score.

    Raises:
      VerifierTimeout, VerifierFailed: there is no verdict.
    """
    return self._ask("reasoning_gym", (task, entry, answer))

  def own(self, target: str, *arguments, share: bool) -> float | None:
    """What a function of the user's returns; see own.call.

    Raises:
      VerifierTimeout, VerifierFailed: nothing; the text names the function,
        and where it raised the file and line.
    """
    try:
      value, why = self._ask("own", (target, share, arguments))
    except (VerifierTimeout, VerifierFailed) as error:
      raise type(error)(f"{target}: {error}") from None
    if why is not None:
      raise VerifierFailed(why)
    return value

  def _ask(self, kind: str, arguments):
    worker = self._places[kind].get()
    try:
      if worker is None or not worker.alive:
        worker = _Worker(kind, self._deadline_s)
      answer = worker.ask(arguments, self._deadline_s)
      # A locked process may have been led to lie: True alone is true.
      return answer is True if _JOBS[kind].locked else answer
    except BaseException:
      if worker is not None:
        worker.kill()
      worker = None
      raise
    finally:
      self._places[kind].put(worker)
