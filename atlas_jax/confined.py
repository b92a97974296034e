"""Functions that may hang, burst or do harm, called in a process of their own.

What models and strangers write is judged and rendered there: within limits of
time and memory, away from the terminal and from what we have open, and after
Confined.lock. What comes back is data of bounded size, no pickle.
"""

import json
import os
import pickle
import resource
import socket
import threading
import time
import weakref
from collections.abc import Callable

from atlas_jax import fork_server, seccomp
from atlas_jax.errors import AtlasError, one_line

MEMORY_BYTES = 6 << 30


class Unanswered(AtlasError):
  """The process ended, or was ended, without an answer."""


class Late(Unanswered):
  """No answer came in time."""


class Raised(Unanswered):
  """(type, text): what the function raised. The process goes on."""

  def __str__(self):
    return "raised {}: {}".format(*self.args)


class Confined:
  """A process that calls functions. Threads may share it.

  Args:
    prepare: imports, before the process is forked; one of our own functions.
    memory_bytes: of its own; 0: no bound.
    answer_bytes: of an answer.

  Attributes:
    pid: of the process.
    end: ends the process; this happens also when nobody holds the object.

  Raises:
    Unanswered: it did not start.
  """

  def __init__(
    self,
    prepare: Callable[[], object] = os.getpid,
    *,
    memory_bytes: int = MEMORY_BYTES,
    answer_bytes: int = 8192,
  ):
    self._memory_bytes, self._answer_bytes = memory_bytes, answer_bytes
    self._turn = threading.Lock()
    for last in (False, True):
      try:
        self._connection, theirs = socket.socketpair()
        with theirs:
          self._process = fork_server.fork(
            theirs.fileno(), prepare, serve, memory_bytes
          )
        break
      except OSError as error:  # the fork server is lost: another one starts
        if last:
          raise Unanswered(f"did not start: {error}") from None
    self.pid = self._process.pid
    self.end = weakref.finalize(self, _end, self._process, self._connection)

  @property
  def alive(self) -> bool:
    return self.end.alive and not self._process.ended()

  def call(self, function: Callable, *arguments, cpu_s: float, wall_s: float):
    """What the function returns there, as JSON holds it.

    Raises:
      Unanswered: and the process is no more, unless that is Raised.
    """
    question = pickle.dumps((cpu_s, function, arguments))
    with self._turn:
      try:
        done, *value = json.loads(self._exchange(question, wall_s))
      except TimeoutError:
        self.end()
        raise Late(f"takes more than {wall_s:g} s") from None
      except (OSError, ValueError, TypeError, RecursionError):
        most = f"{cpu_s:g} s"
        if self._memory_bytes:
          most += f" or {self._memory_bytes >> 30} GiB"
        self.end()
        text = f"ended its process or takes more than {most}"
        raise Unanswered(text) from None
      except BaseException:
        self.end()  # the next question would get this one's answer
        raise
    if not done:
      raise Raised(*value)
    return value[0]

  def lock(self, *, cpu_s: float, wall_s: float) -> None:
    """Leaves the process to read and compute alone; see seccomp.py.

    Where the kernel does not lock it, that is logged, once.
    """
    limits = {"cpu_s": cpu_s, "wall_s": wall_s}
    if why := self.call(seccomp.lock_process, **limits):
      seccomp.warn_unlocked(why)

  def _exchange(self, question: bytes, wall_s: float) -> bytes:
    deadline, line = time.monotonic() + wall_s, bytearray()
    self._connection.settimeout(wall_s)
    self._connection.sendall(question)
    while not line.endswith(b"\n"):
      self._connection.settimeout(max(deadline - time.monotonic(), 1e-3))
      part = self._connection.recv(1 << 16)
      line += part
      if not part or len(line) > self._answer_bytes:
        raise OSError
    return line


def _end(process: fork_server.Process, connection: socket.socket) -> None:
  connection.close()
  process.kill()


def _limit(kind: int, most: int, *, again: bool = False) -> None:
  """Lowers a limit: for good, or so that it may be set `again`."""
  _, hard = resource.getrlimit(kind)
  most = most if hard < 0 else min(most, hard)
  resource.setrlimit(kind, (most, hard if again else most))


def serve(descriptor: int, memory_bytes: int) -> None:
  """The life of the process: it answers until its connection closes."""
  if memory_bytes:
    _limit(resource.RLIMIT_AS, memory_bytes)
  _limit(resource.RLIMIT_CORE, 0)
  with (
    open(descriptor, "rb") as questions,
    open(descriptor, "wb", closefd=False) as answers,
  ):
    mine = os.getpid()
    while True:
      cpu_s, function, arguments = pickle.load(questions)
      # Ends it also where its parent is gone.
      spent_s = int(time.process_time() + cpu_s) + 2
      _limit(resource.RLIMIT_CPU, spent_s, again=True)
      try:
        answer = json.dumps((True, function(*arguments)))
      except BaseException as error:
        text = one_line(error, 500)
        answer = json.dumps((False, type(error).__name__, text))
      if os.getpid() != mine:  # a copy that the function has forked
        os._exit(0)
      answers.write(answer.encode() + b"\n")
      answers.flush()
