"""`python -m MODULE` in the checkout, forked from a process with its imports.

A fresh interpreter takes three seconds of processor time to import JAX, the
phases, transformers and sympy, and a launched run starts one more for its
processes of tokenizers and verdicts. Here one process does the imports, once
for a pytest worker, and forks all of them.

What is launched is a child of neither: a *keeper* between the two waits for it
and says how it ended, as only a parent can.

With `servers`, vLLM is imported there, too (`forked_servers.py`).
"""

import atexit
import contextlib
import gc
import importlib
import json
import logging
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping

from atlas_jax.serving import supervisor
from tests import forked_servers

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PROGRAM = (
  "import json, sys; sys.path[:], *given = json.loads(sys.argv[1]);"
  " from tests.forked import _main; _main(*given)"
)
# What a run imports on its way, and the processes that read for it.
_MODULES = (
  *("atlas_jax.phases", "atlas_jax.teaching.formulas", "launchers.common"),
  *("jinja2.sandbox", "transformers.tokenization_utils_fast"),
  *("matplotlib.figure", "matplotlib.backends.backend_agg"),
  *("atlas_jax.online.search.optimize", "atlas_jax.online.production.app"),
)
# With vLLM or without: (whose, our end).
_servers: dict[bool, tuple[int, socket.socket]] = {}


class Process:
  """As subprocess.Popen; what it says goes to files.

  stdout: a file; None: one that communicate() reads.
  stderr: likewise; subprocess.STDOUT: as stdout.
  stdin: subprocess.PIPE, or nothing to be read.
  servers: the vLLM servers that it starts are forked, too.
  """

  def __init__(
    self,
    module: str,
    *arguments: str,
    stdout=None,
    stderr=None,
    stdin=None,
    env: Mapping[str, str] | None = None,
    servers: bool = False,
  ):
    self.args, self.returncode = (module, *arguments), None
    servers = servers and forked_servers.possible()
    self._out = stdout or tempfile.TemporaryFile()  # noqa: SIM115
    self._err = self._out if stderr == subprocess.STDOUT else stderr
    self._err = self._err or tempfile.TemporaryFile()  # noqa: SIM115
    self._status, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
      files = [theirs.fileno(), self._out.fileno(), self._err.fileno()]
      if stdin == subprocess.PIPE:
        theirs_in, ours_in = os.pipe()
        self.stdin = os.fdopen(ours_in, "wb")
        files.append(theirs_in)
      environ = dict(os.environ if env is None else env)
      words = [str(a) for a in arguments]
      _ask((module, words, sys.path, environ), files, servers)
      if stdin == subprocess.PIPE:
        os.close(theirs_in)
    self.pid = self._said(None)

  def _said(self, timeout: float | None) -> int:
    """The next number from the keeper."""
    self._status.settimeout(timeout)
    try:
      said = self._status.recv(64)
    except (TimeoutError, BlockingIOError):
      raise subprocess.TimeoutExpired(self.args, timeout) from None
    return int(said)

  def poll(self) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.wait(0)
    return self.returncode

  def wait(self, timeout: float | None = None) -> int:
    if self.returncode is None:
      self.returncode = self._said(timeout)
    return self.returncode

  def send_signal(self, number: int) -> None:
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self) -> None:
    self.send_signal(signal.SIGKILL)

  def communicate(self, timeout: float | None = None) -> tuple[str, str]:
    """What it wrote to (stdout, stderr), after its end."""
    self.wait(timeout)
    found = []
    for file in (self._out, self._err):
      file.seek(0)
      found.append(file.read().decode())
    return tuple(found)


def run(module: str, *arguments: str, timeout: float = 300, **given):
  """As subprocess.run, what it said in stdout and stderr."""
  process = Process(module, *arguments, **given)
  try:
    said = process.communicate(timeout)
  finally:
    process.kill()
  return subprocess.CompletedProcess(process.args, process.returncode, *said)


def _ask(request, files: list[int], servers: bool) -> None:
  owner, ours = _servers.get(servers, (0, None))
  if owner != os.getpid():
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    given = json.dumps((sys.path, theirs.fileno(), servers))
    env = forked_servers.environ() if servers else {}
    with theirs:
      subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, given],
        cwd=_ROOT,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # Threads of a library would be lost by the fork.
        env={
          **os.environ,
          **env,
          **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        },
      )
    _servers[servers] = os.getpid(), ours
  socket.send_fds(ours, [json.dumps(request).encode()], files)


def _main(descriptor: int, servers: bool) -> None:
  gc.set_threshold(100_000, 20, 100)  # see conftest.py; a child has it, too
  for name in _MODULES:
    importlib.import_module(name)
  from atlas_jax import metrics

  metrics.summary_writer()
  if servers:
    forked_servers.load()
  logging.root.handlers.clear()  # one of an import, before a launcher's own
  gc.freeze()  # what a child would touch, it would copy
  _serve(socket.socket(fileno=descriptor), servers)


def _serve(control: socket.socket, servers: bool) -> None:
  """Forks what is asked for until nobody can ask any more."""
  while True:
    request, files, *_ = socket.recv_fds(control, 1 << 20, 4)
    if not request:
      return
    with contextlib.suppress(ChildProcessError):
      while os.waitpid(-1, os.WNOHANG)[0]:
        pass
    if os.fork() == 0:
      control.close()
      _keep(json.loads(request), servers, *files)
    for file in files:
      os.close(file)


def helper(servers: bool) -> None:
  """Has a process below this one fork what it launches."""
  ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
  if os.fork() == 0:
    ours.close()
    supervisor._die_with_supervisor()
    _serve(theirs, servers)
    os._exit(0)
  theirs.close()
  _servers[servers] = os.getpid(), ours


def _keep(
  request, servers: bool, status: int, out: int, err: int, *stdin: int
) -> None:
  """Forks what is launched, and waits for it; never returns."""
  if pid := os.fork():
    with socket.socket(fileno=status) as said:
      for file in (out, err, *stdin):
        os.close(file)
      said.send(b"%d" % pid)
      code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
      with contextlib.suppress(OSError):  # who asked is gone
        said.send(b"%d" % code)
    os._exit(0)
  os.close(status)
  for number, file in ((1, out), (2, err), *((0, file) for file in stdin)):
    os.dup2(file, number)
    os.close(file)
  module, arguments, sys.path[:], environ = request
  # What JAX has read on import stays as it was read.
  for name in {*os.environ, *environ}:
    if name.startswith("JAX_") and os.environ.get(name) != environ.get(name):
      raise ValueError(f"{name} is another one where all are forked")
  os.environ.clear()
  os.environ.update(environ)
  os.chdir(_ROOT)
  # A shell's background jobs, and all below them, ignore SIGINT.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  if servers:
    forked_servers.prepare(module)
  _fork_fork_server()
  sys.path.insert(0, str(_ROOT))
  sys.argv = [module, *arguments]
  os._exit(status_of(module))


def status_of(module: str) -> int:
  """Runs it as Python would, but what was imported is not torn down."""
  code = 0
  try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
  except SystemExit as end:
    code = end.code or 0
  except BaseException:
    traceback.print_exc()
    code = 1
  threading._shutdown()
  atexit._run_exitfuncs()
  if not isinstance(code, int):
    print(code, file=sys.stderr)
    code = 1
  for stream in (sys.stdout, sys.stderr):
    stream.flush()
  return code


def _fork_fork_server() -> None:
  """Gives this process its fork server, which has its imports, too."""
  from atlas_jax import fork_server

  class Forked(fork_server.ForkServer):
    def __init__(self):
      self._control, theirs = socket.socketpair()
      if os.fork() == 0:
        os.setsid()
        self._control.close()
        for number in (1, 2):
          os.dup2(0, number)
        fork_server.serve(theirs.detach())
        os._exit(0)
      theirs.close()
      self._control.settimeout(fork_server._START_S)

    def close(self):
      self._control.close()  # it ends by this

  fork_server._server, fork_server._of_process = Forked(), os.getpid()
