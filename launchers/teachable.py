"""Makes the untrained model directory of the built-in task's student.

  python -m launchers.teachable --config=configs/quickstart.py:student

Writes config.json and a tokenizer, trained on the task's own dialogues in
the config's templates, to config.teacher.path. There already: left alone.
"""

import logging
import pathlib

from . import common

common.define_flags(workdir=False)


def main():
  config = common.config()
  path = pathlib.Path(config.teacher.path)
  if (path / "config.json").is_file():
    logging.info("%s is there", path)
    return
  from atlas_jax.data import teachable_examples, teachable_model
  from atlas_jax.teaching.prompts import Prompts

  prompts = Prompts(config.prompts, config.episode.stated_probe_tokens)
  examples = [
    *teachable_examples.student_examples({"count": 4000}, config.seed),
    *teachable_examples.sft_examples({"count": 2000}, config.seed),
  ]
  teachable_model.write_scratch_model_dir(
    path,
    [prompts.render(e.template, e.fields) + e.response for e in examples],
  )


if __name__ == "__main__":
  common.launch(main)
