"""Processes that are forked from one which did their imports already.

A fresh interpreter that imports transformers, sympy or reasoning-gym takes one
to two seconds of processor time. The first process that is asked for starts
one *fork server*; it runs the `prepare` of each kind of process once and forks
all of them, in some ten milliseconds. Only functions of our own run in it: what
strangers wrote is read by its children alone, which hold no way back to it.
"""

import contextlib
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

_PROGRAM = (
  "import json, sys; sys.path[:], descriptor = json.loads(sys.argv[1]);"
  " from atlas_jax.fork_server import serve; serve(descriptor)"
)
_START_S = 300.0  # for imports, on a machine that is busy


class Process:
  """A forked process. It leads a process group of its own."""

  def __init__(self, pid: int, descriptor: int):
    self.pid, self._descriptor = pid, descriptor
    self._end = select.poll()  # select knows no descriptor above 1023
    self._end.register(descriptor, select.POLLIN)

  def ended(self) -> bool:
    return bool(self._end.poll(0))

  def kill(self) -> None:
    """Ends it and what it started, and waits for its end."""
    if not self.ended():
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self.pid, signal.SIGKILL)
      self._end.poll()
    os.close(self._descriptor)


class ForkServer:
  """The one process that forks the others; it ends when we do."""

  def __init__(self):
    self._control, theirs = socket.socketpair()
    with theirs:
      given = json.dumps((sys.path, theirs.fileno()))
      self._process = subprocess.Popen(
        # -P: not what lies in the current directory.
        [sys.executable, "-P", "-c", _PROGRAM, given],
        # A thread of a library would be lost by the fork.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us
      )
    self._control.settimeout(_START_S)

  def fork(self, connection: int, prepare: Callable, main: Callable, *given):
    """A Process that calls main(connection, *given), then ends.

    It has our environment, directory and sys.path of this moment, and no open
    file but `connection`.

    Raises:
      OSError: the server is lost or does not answer.
    """
    try:
      directory = os.getcwd()
    except FileNotFoundError:  # it was deleted
      directory = "/"
    place = (list(sys.path), dict(os.environ), directory)
    request = pickle.dumps((pickle.dumps(prepare), place, main, given))
    try:
      socket.send_fds(self._control, [b"\0"], [connection])
      self._control.sendall(request)
      pid, descriptors, *_ = socket.recv_fds(self._control, 20, 1)
      if not descriptors:
        raise OSError("the process that forks others has ended")
    except BaseException:
      self.close()  # the next request would get this one's answer
      raise
    return Process(int(pid), *descriptors)

  def close(self) -> None:
    self._control.close()
    self._process.kill()
    self._process.wait()


_server: ForkServer | None = None
_of_process = 0  # a forked process needs a server of its own
_turn = threading.Lock()


def fork(connection: int, prepare: Callable, main: Callable, *given) -> Process:
  """As ForkServer.fork; the next call starts another server for a lost one."""
  global _server, _of_process
  with _turn:
    if _server is None or _of_process != os.getpid():
      _server, _of_process = ForkServer(), os.getpid()
    try:
      return _server.fork(connection, prepare, main, *given)
    except BaseException:
      _server = None
      raise


def serve(descriptor: int) -> None:
  """The life of the server: it forks until its connection closes."""
  control, prepared = socket.socket(fileno=descriptor), set()
  while True:
    _, descriptors, *_ = socket.recv_fds(control, 1, 1)
    if not descriptors:
      return
    with control.makefile("rb") as request:
      prepare, place, main, given = pickle.load(request)
    # Those that ended stay known until here: no number is given anew too early.
    with contextlib.suppress(ChildProcessError):
      while os.waitpid(-1, os.WNOHANG)[0]:
        pass
    if prepare not in prepared:
      prepared.add(prepare)
      with contextlib.suppress(Exception):  # the child will say it
        pickle.loads(prepare)()
    pid = os.fork()
    if pid == 0:
      control.detach()
      _become(place, descriptors[0], main, given)
    # Here, so that who learns the number can already end the whole group.
    with contextlib.suppress(OSError):  # it has ended
      os.setpgid(pid, pid)
    pidfd = os.pidfd_open(pid)
    socket.send_fds(control, [b"%d" % pid], [pidfd])
    for used in (pidfd, *descriptors):
      os.close(used)


def _become(place, connection: int, main: Callable, given) -> None:
  """Turns the forked process into what was asked for; never returns."""
  try:
    os.setpgid(0, 0)
    os.closerange(3, connection)
    os.closerange(connection + 1, os.sysconf("SC_OPEN_MAX"))
    path, environ, directory = place
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environ)
    with contextlib.suppress(OSError):
      os.chdir(directory)
    main(connection, *given)
  finally:
    os._exit(0)
