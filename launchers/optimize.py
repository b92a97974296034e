"""Evolves the teaching prompts of a config, and says whether they are better.

  python -m launchers.optimize --config=configs/online.py --workdir=runs/evolve
  python -m launchers.optimize --config=configs/online.py:demo --dry_run \
      --workdir=runs/demo

Stopped in any way, the same command goes on: what was paid for is kept.
--dry_run prints what it would take and sends nothing. See
atlas_jax/online/README.md.
"""

import os

from absl import flags

from . import common, config_flag

common.define_flags()
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Print calls, tokens and price of the run; send nothing."
)


def main():
  from atlas_jax import stopping
  from atlas_jax.online.search import config as online_config
  from atlas_jax.online.search import optimize, plan

  workdir = common.workdir()
  config = online_config.resolve(config_flag.tree(), workdir)
  if _DRY_RUN.value:
    print(plan.plan(config, os.environ), flush=True)
    return
  with stopping.listening():
    optimize.optimize(config, workdir, os.environ, common.server_key())


if __name__ == "__main__":
  common.launch(main)
