"""Evaluates a teacher as it stands: the evaluate phase alone.

  python -m launchers.evaluate --config=configs/teacher.py:smollm2 \
      --workdir=runs/check --config.teacher.path=runs/a/export
"""

from . import common

common.define_flags()


def main():
  common.run_phases(common.config(phases=("evaluate",)))


if __name__ == "__main__":
  common.launch(main)
