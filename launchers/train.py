"""Runs the phases of a config in a run directory; run again, it resumes.

  python -m launchers.train --config=configs/quickstart.py --workdir=runs/a
  python -m launchers.train --config=configs/teacher.py:smollm2 \
      --workdir=runs/b --config.grpo.beta=0.04
"""

from . import common

common.define_flags()


def main():
  config = common.config()
  # Imported late: a bad config is refused before JAX starts.
  from atlas_jax import phases

  phases.run_phases(
    config, common.workdir(), common.server_key(), common.command()
  )


if __name__ == "__main__":
  common.launch(main)
