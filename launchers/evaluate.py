"""Evaluates a teacher as it stands: the evaluate phase alone.

  python -m launchers.evaluate --config=configs/teacher.py:smollm2 \
      --workdir=runs/check --config.teacher.path=runs/a/export
"""

from . import common

common.define_flags()


def main():
  config = common.config(phases=("evaluate",))
  from atlas_jax import phases

  phases.run_phases(
    config, common.workdir(), common.server_key(), common.command()
  )


if __name__ == "__main__":
  common.launch(main)
