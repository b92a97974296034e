"""Comparisons that may hang, in processes that may be killed.

math-verify reaches sympy's parser and reasoning-gym runs a task's own code:
both can loop for ever or fill the memory on an odd answer. Each comparison
therefore has a deadline in a process of its own; one that is late is killed,
and another process takes its place.
"""

import contextlib
import multiprocessing
import queue
import resource
import threading
from collections.abc import Mapping

_START_S = 120.0  # for the imports of a new process
_MEMORY_BYTES = 6 << 30


class VerifierTimeout(RuntimeError):
  """No verdict before the deadline."""


class VerifierFailed(RuntimeError):
  """The comparison itself raised; the text holds its error."""


def _math(gold: str, answer: str) -> bool:
  from math_verify import parse, verify

  def read(text):
    # Their own time limits use SIGALRM; ours is the deadline outside.
    bare = parse(text, parsing_timeout=None, raise_on_error=True)
    wrapped = parse(f"${text}$", parsing_timeout=None, raise_on_error=True)
    return wrapped or bare

  return bool(
    verify(read(gold), read(answer), timeout_seconds=None, raise_on_error=True)
  )


def _reasoning_gym(task: str, entry: Mapping, answer: str) -> bool:
  import reasoning_gym

  # Substrings earn partial credit there: only the full score is right.
  score = reasoning_gym.get_score_answer_fn(task)(answer, entry)
  return float(score) >= 0.99


_JOBS = {"math": _math, "reasoning_gym": _reasoning_gym}


def _serve(connection, kind: str) -> None:
  """The life of a process: import, say so, answer until the pipe closes."""
  import logging

  logging.disable(logging.WARNING)
  resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
  if kind == "math":
    _math("1", "1")
  else:
    import reasoning_gym  # noqa: F401 slow, so before the clock runs
  connection.send(("ready", None))
  with contextlib.suppress(EOFError, KeyboardInterrupt):
    while True:
      arguments = connection.recv()
      try:
        connection.send(("done", _JOBS[kind](*arguments)))
      except BaseException as error:
        text = f"{type(error).__name__}: {error}"[:500]
        connection.send(("failed", text))


class _Worker:
  def __init__(self, kind: str):
    context = multiprocessing.get_context("spawn")
    self._connection, theirs = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(theirs, kind), daemon=True
    )
    self._process.start()
    theirs.close()
    if not self._connection.poll(_START_S):
      self.kill()
      raise VerifierFailed(f"the {kind} verifier did not start")
    try:
      self._connection.recv()
    except EOFError:
      raise VerifierFailed(f"the {kind} verifier died at its start") from None

  def ask(self, arguments, deadline_s: float) -> bool:
    self._connection.send(arguments)
    if not self._connection.poll(deadline_s):
      raise VerifierTimeout(f"no verdict in {deadline_s:g} s")
    try:
      state, value = self._connection.recv()
    except EOFError:
      raise VerifierFailed("the verifier process died") from None
    if state == "failed":
      raise VerifierFailed(value)
    return value

  @property
  def alive(self) -> bool:
    return self._process.is_alive()

  def kill(self) -> None:
    self._process.kill()
    self._process.join()
    self._connection.close()


class VerifierPool:
  """Up to `processes` processes of each kind, started when first needed.

  Safe to use from several threads. Use it as a context, or call close.
  """

  def __init__(self, *, processes: int = 2, deadline_s: float = 3.0):
    self._deadline_s = deadline_s
    self._lock = threading.Lock()
    self._idle = {kind: queue.SimpleQueue() for kind in _JOBS}
    self._free = {kind: threading.Semaphore(processes) for kind in _JOBS}
    self._workers: set[_Worker] = set()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  def close(self) -> None:
    with self._lock:
      workers, self._workers = self._workers, set()
    for kind in self._idle:
      self._idle[kind] = queue.SimpleQueue()
    for worker in workers:
      worker.kill()

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

  def _ask(self, kind: str, arguments) -> bool:
    with self._free[kind]:
      worker = self._take(kind)
      try:
        answer = worker.ask(arguments, self._deadline_s)
      except BaseException:
        self._give(kind, worker, whole=False)
        raise
      self._give(kind, worker, whole=True)
      return answer

  def _take(self, kind: str) -> _Worker:
    with contextlib.suppress(queue.Empty):
      while True:
        worker = self._idle[kind].get_nowait()
        if worker.alive:
          return worker
        self._forget(worker)
    worker = _Worker(kind)
    with self._lock:
      self._workers.add(worker)
    return worker

  def _give(self, kind: str, worker: _Worker, *, whole: bool) -> None:
    if whole:
      self._idle[kind].put(worker)
    else:
      self._forget(worker)

  def _forget(self, worker: _Worker) -> None:
    with self._lock:
      self._workers.discard(worker)
    worker.kill()
