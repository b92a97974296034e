"""The benchmark for a GPU, its stages forked from one process with imports.

A stage imports PyTorch, transformers and JAX for five seconds of processor
time. The last one, `publishing`, is started as the benchmark starts them all.
"""

import os
import sys
import traceback

from tests.benchmarks import gpu
from tests.benchmarks.gpu_stages import run, stand_ins

_started = gpu.run_command


def _run_command(command, env, limit, log):
  *words, stage, arguments = command
  if stage == "publishing":
    return _started(command, env, limit, log)
  assert words == [sys.executable, "-m", run.__name__]
  pid = os.fork()
  if pid == 0:
    _become([run.__file__, stage, arguments], env, log)
  _, status = os.waitpid(pid, 0)
  return ("failed", "see its log") if status else ("done", "")


def _become(argv: list[str], env: dict[str, str], log) -> None:
  """Turns the forked process into a stage; never returns."""
  status = 1
  try:
    for number in (1, 2):
      os.dup2(log.fileno(), number)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv
    run.main()
    status = 0
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
  stand_ins.install()  # before anything of atlas_jax is imported
  from torch import _dynamo  # noqa: F401  what torch.compile imports

  from tests.benchmarks.gpu_stages import attentions, ours, peers  # noqa: F401

  gpu.run_command = _run_command
  gpu.main()
