"""Comparisons that may hang, in processes that may be killed.

math-verify reaches sympy's parser and reasoning-gym runs a task's own code:
both can loop for ever or fill the memory on an odd answer. Each comparison
therefore has a deadline in a process of its own; one that is late is killed,
and another process takes its place. What runs there reads what a model says,
so the process is locked (seccomp.py), except for functions of the user's own.
"""

import contextlib
import functools
import os
import queue
from collections.abc import Callable
from dataclasses import dataclass

from atlas_jax.confined import MEMORY_BYTES, Confined, Unanswered
from atlas_jax.teaching import families

_START_S = 120.0  # for the imports of a new process


@dataclass(frozen=True)
class VerifierJob:
  """A kind of comparison."""

  function: Callable[..., object]
  prepare: Callable[[], object] = os.getpid  # imports, before the clock runs
  locked: bool = True


def _math(gold: str, answer: str) -> bool:
  from atlas_jax.teaching import formulas  # sympy: for these processes alone

  return formulas.equal(gold, answer)


# The first comparison of its kind takes a second, of which most is imports.
MATH = VerifierJob(_math, functools.partial(_math, "x^2 + 2x + 1", "(x + 1)^2"))
REASONING_GYM = VerifierJob(families.right, families.usable)


def _prepare(job: VerifierJob) -> None:
  job.prepare()  # where the fork server could not, this says why


def _start(job: VerifierJob) -> Confined:
  memory = MEMORY_BYTES if job.locked else 0
  try:
    process = Confined(job.prepare, memory_bytes=memory)
    process.call(_prepare, job, cpu_s=_START_S, wall_s=_START_S)
    if job.locked:
      process.lock(cpu_s=_START_S, wall_s=_START_S)
  except Unanswered as error:
    raise Unanswered(f"a verifier did not start: it {error}") from None
  return process


class VerifierPool(contextlib.ExitStack):
  """Processes that compare, so many of each kind, started when needed."""

  def __init__(self, *, processes: int, deadline_s: float):
    super().__init__()
    self._deadline_s = deadline_s
    self._processes: dict[tuple[int, VerifierJob], Confined] = {}
    # Those that were used last come first: few answers start few processes.
    self._free = queue.LifoQueue()
    for number in range(processes):
      self._free.put(number)

  def ask(self, job: VerifierJob, *arguments):
    """Calls the job's function in a process; any thread may ask.

    Raises:
      Unanswered: there is no verdict.
    """
    mine = (number := self._free.get(), job)
    try:
      if mine not in self._processes or not self._processes[mine].alive:
        self._processes[mine] = _start(job)
        self.callback(self._processes[mine].end)
      cores = 1 if job.locked else os.cpu_count()
      limits = {"cpu_s": cores * self._deadline_s, "wall_s": self._deadline_s}
      answer = self._processes[mine].call(job.function, *arguments, **limits)
    finally:
      self._free.put(number)
    # A locked process may have been led to lie: True alone is true.
    return answer is True if job.locked else answer
