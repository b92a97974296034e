"""Makes the untrained model directory of the built-in task's student.

  python -m launchers.teachable --config=configs/quickstart.py:student

Writes config.json and a tokenizer, trained on the task's own dialogues in
the config's templates, to config.teacher.path. There already: left alone.
"""

from launchers import common

common.define_flags(workdir=False)


def main():
  config = common.config()
  from atlas_jax.data import problems, teachable_model
  from atlas_jax.teaching.prompts import Prompts
