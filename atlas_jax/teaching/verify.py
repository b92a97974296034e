"""Comparisons that may hang, in processes that may be killed.

math-verify reaches sympy's parser and reasoning-gym runs a task's own code:
both can loop for ever or fill the memory on an odd answer. Each comparison
therefore has a deadline in a process of its own; one that is late is killed,
and another process takes its place. What runs there reads what a model says,
so the process is locked (lock.py). Functions of the user's own (own.py) are
trusted with files, programs, sockets and memory: theirs has the deadline alone.
"""

import functools
import os
import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from atlas_jax import lock
from atlas_jax.confined import MEMORY_BYTES, Confined, Late, NoAnswer
from atlas_jax.errors import AtlasError
from atlas_jax.teaching import families, own

_START_S = 120.0  # for the imports of a new process


class NotStarted(AtlasError):
  """A verifier did not start, whatever the answer was."""


def _math(gold: str, answer: str) -> bool:
  from atlas_jax.teaching import formulas  # sympy: for these processes alone

  return formulas.equal(gold, answer)


@dataclass(frozen=True)
class Job:
  """A kind of comparison."""

  right: Callable[..., object]
  prepare: Callable[[], object]  # the imports, before the clock runs
  locked: bool = True


def _import_reasoning_gym() -> None:
  import reasoning_gym  # noqa: F401


_JOBS = {
  "math": Job(_math, functools.partial(_math, "1", "1")),
  "reasoning_gym": Job(families.right, _import_reasoning_gym),
  "own": Job(own.call, os.getpid, locked=False),  # nothing to import
}


def _prepare(job: Job) -> str:
  """Why the process is not locked; empty where it is, or need not be."""
  job.prepare()
  return lock.take() if job.locked else ""


def _start(job: Job) -> Confined:
  process = Confined(memory_bytes=MEMORY_BYTES if job.locked else 0)
  try:
    why = process.call(_prepare, job, cpu_s=_START_S, wall_s=_START_S)
  except NoAnswer as error:
    raise NotStarted(f"a verifier did not start: it {error}") from None
  if why:
    lock.warn(why)
  return process


class VerifierPool:
  """Up to `processes` processes of each kind, started when first needed.

  Safe to use from several threads. Use it as a context, or call close.
  A comparison raises NoAnswer or NotStarted where there is no verdict.
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
          worker.end()
        places.put(None)

  def math_equal(self, gold: str, answer: str) -> bool:
    """Whether two mathematical expressions are equal, by math-verify."""
    return self._ask("math", (gold, answer))

  def reasoning_gym(self, task: str, entry: Mapping, answer: str) -> bool:
    """Whether a task's own scorer gives the answer its full score."""
    return self._ask("reasoning_gym", (task, entry, answer))

  def own(self, target: str, *arguments, share: bool) -> float | None:
    """What a function of the user's returns; see own.call."""
    try:
      value, why = self._ask("own", (target, share, arguments))
    except Late as error:
      raise Late(f"{target} {error}") from None
    except NoAnswer:
      raise NoAnswer(f"{target} ended its process") from None
    if why is not None:
      raise NoAnswer(why)
    return value

  def _ask(self, kind: str, arguments):
    worker, job = self._places[kind].get(), _JOBS[kind]
    try:
      if worker is None or not worker.alive:
        worker = _start(job)
      cores = 1 if job.locked else os.cpu_count()
      limits = {"cpu_s": cores * self._deadline_s, "wall_s": self._deadline_s}
      answer = worker.call(job.right, *arguments, **limits)
      # A locked process may have been led to lie: True alone is true.
      return answer is True if job.locked else answer
    finally:
      self._places[kind].put(worker)
