"""`launchers.train` in a process of its own, which fails where it would train.

python -m tests.phases.fated train|fail HEARTBEAT_S FLAGS
"""

import runpy
import sys


def main(fate: str, heartbeat_s: str) -> None:
  from atlas_jax import multihost
  from atlas_jax.phases import sft

  multihost.HEARTBEAT_S = int(heartbeat_s)
  multihost.SHARED_S = 2

  def fail(*_, **__):
    raise OSError("disk full")

  if fate == "fail":
    sft.train = fail
  runpy.run_module("launchers.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  given = sys.argv[1:3]
  del sys.argv[1:3]
  main(*given)
