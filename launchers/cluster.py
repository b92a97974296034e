"""Writes the script that starts a run on a cluster, and its servers.

  python -m launchers.cluster --config=configs/teacher.py:qwen3_8b \
      --kind=slurm --nodes=2+1 > job.sbatch

--config.KEY=VALUE holds for trainer and servers. Nothing is submitted; accounts
and paths are environment variables of the script. launchers/slurm,
launchers/tpu and launchers/local_8gpu.sh were written by it.
"""

import sys

from absl import flags

from . import common, config_flag

common.define_flags(workdir=False)
_KIND = flags.DEFINE_enum(
  "kind", None, ("slurm", "tpu", "local"), "Of cluster.", required=True
)
_NODES = flags.DEFINE_string(
  "nodes", "1", "1: all on one; N+1: N that train, one with both servers."
)
_GPUS = flags.DEFINE_integer("gpus", 8, "Of a node that has GPUs.")


def main():
  from atlas_jax.preflight import scripts

  text = scripts.of_run(
    common.config(),
    [f"--config={config_flag.path()}", *config_flag.given()],
    kind=_KIND.value,
    nodes=_NODES.value,
    gpus_per_node=_GPUS.value,
  )
  sys.stdout.write(text)


if __name__ == "__main__":
  common.launch(main)
