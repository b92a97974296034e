"""Runs the phases of a config in a run directory; run again, it resumes.

  python -m launchers.train --config=configs/quickstart.py --workdir=runs/a
  python -m launchers.train --config=configs/teacher.py:smollm2 \
      --workdir=runs/b --config.grpo.beta=0.04
"""

import os

from absl import flags

from . import common

common.define_flags()
_DRY_RUN = flags.DEFINE_boolean(
  "dry_run", False, "Prints what the trainer and its servers would get; stops."
)


def main():
  config = common.config()
  if _DRY_RUN.value:
    from atlas_jax.preflight import dry_run

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    print("\n".join(dry_run.lines(config, common.workdir(), visible)))
  else:
    common.run_phases(config)


if __name__ == "__main__":
  common.launch(main)
