"""vLLM servers, forked from a process that has imported vLLM.

A server is two interpreters, of which each imports vLLM for eight seconds of
processor time. Here `forked.py` has it imported once. All else is the
product's: its supervisor reads its order, and what runs is the module of that
order with its arguments, in a process of its own below the supervisor.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

from atlas_jax.server_config import ServerConfig
from atlas_jax.serving import supervisor, vllm_command

_SUPERVISOR = "atlas_jax.serving.supervisor"
_MODULES = (
  "vllm.entrypoints.openai.api_server",
  "vllm.entrypoints.launchers.cli_args",
  "vllm.v1.engine.core",
  "vllm.v1.engine.async_llm",
  "vllm.v1.executor.multiproc_executor",
  "vllm.v1.worker.cpu_worker",
  "vllm.model_executor.models.llama",
  "vllm.model_executor.models.qwen2",
)
# What vLLM and torch have read on import stays as it was read.
_READ = ("HF_HUB_OFFLINE", "TORCH_COMPILE_DISABLE", "VLLM_TARGET_DEVICE")
_set: dict[str, str] = {}  # by vLLM's import


def environ() -> dict[str, str]:
  """That of a server, for the process that imports vLLM."""
  _, env = vllm_command.device_settings("cpu", ServerConfig())
  return {**env, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def load() -> None:
  import setproctitle

  before = dict(os.environ)
  for name in _MODULES:
    importlib.import_module(name)
  setproctitle.getproctitle()  # finds its place before the environment moves
  _set.update({k: v for k, v in os.environ.items() if k not in before})


def possible() -> bool:
  """vLLM's build for CPUs alone is one that a fork leaves whole."""
  return vllm_command.vllm_device() == "cpu"


def _open(output):
  """A supervisor, as supervisor._open."""
  from tests import forked

  return forked.Process(
    _SUPERVISOR,
    stdin=subprocess.PIPE,
    stdout=output,
    stderr=subprocess.STDOUT,
    servers=True,
  )


@contextlib.contextmanager
def forking() -> Iterator[None]:
  """Servers that this process starts are forked."""
  theirs = supervisor._open
  if possible():
    supervisor._open = _open
  try:
    yield
  finally:
    supervisor._open = theirs


def prepare(module: str) -> None:
  """Of a forked process, before it runs its module."""
  if module == _SUPERVISOR:
    subprocess.Popen = _Server
  else:
    from tests import forked

    forked.helper(servers=True)
    supervisor._open = _open


class _Server(subprocess.Popen):
  """The supervisor's child: forked, where Popen would start Python."""

  def _execute_child(self, argv, _, preexec_fn, *rest):
    env = rest[3]
    self.pid = os.fork()
    self._child_created = True
    if self.pid == 0:
      preexec_fn()
      _run(argv, env)


def _run(argv: list[str], env: dict[str, str]) -> None:
  import setproctitle
  import torch

  from tests import forked

  subprocess.Popen = _Server.__base__
  os.setsid()
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  theirs = environ()
  for name in _READ:
    if env.get(name) != theirs[name]:
      raise ValueError(f"{name} is another one where all are forked")
  os.environ.clear()
  os.environ.update({**_set, **env})
  # A fork's first use of torch's threads makes them anew, and two first uses
  # at a time find none.
  threads = int(env["OMP_NUM_THREADS"])
  torch.set_num_threads(threads)
  os.register_at_fork(
    after_in_child=lambda: (_stop_listening(), torch.set_num_threads(threads))
  )
  # An engine, too, is forked where vLLM would start Python.
  context = multiprocessing.get_context("fork")
  multiprocessing.get_context = lambda method=None: context
  _, dash_m, module, *arguments = argv
  assert dash_m == "-m"
  setproctitle.setproctitle(" ".join(argv))
  sys.argv = [module, *arguments]
  os._exit(forked.status_of(module))


def _stop_listening() -> None:
  """A fork inherits the sockets at which its parent listens; exec closes them.

  Their numbers stay taken: objects that know them may still close them.
  """
  nothing = os.open(os.devnull, os.O_RDONLY)
  for fd in map(int, os.listdir("/proc/self/fd")):
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as s:
      if s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        os.dup2(nothing, fd)
  os.close(nothing)
