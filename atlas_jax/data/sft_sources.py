"""Supervised examples, by `config.data.sft_source`:

teachable_sft      what a textbook teacher says, for the teacher
teachable_student  what the student is made of
arc_sft            sft_path: Arc-ATLAS-Teach, or its sft.jsonl {problem_text,
                   student_approach, teacher_diagnosis, teacher_teaching}
episodes           sft_path: an episodes file of a run, or a directory of
                   them; teachings after which the student was right, equal
                   ones once. Of an optimisation those of the prompts that it
                   kept, and none of its test split
"""

import pathlib

from atlas_jax import files
from atlas_jax.config import DataConfig, PromptsConfig
from atlas_jax.data.problems import DataError, SftExample
from atlas_jax.data.sources import (
  checked_params,
  chosen,
  needed_path,
  text_at,
)
from atlas_jax.data.tables import file_of, json_lines
from atlas_jax.teaching.prompts import NO_PROBE, by_new_names, fingerprint


def _teachable_sft(config: DataConfig) -> list[SftExample]:
  from atlas_jax.data import teachable_examples

  return teachable_examples.sft_examples(config.sft_params, config.seed)


def _teachable_student(config: DataConfig) -> list[SftExample]:
  from atlas_jax.data import teachable_examples

  return teachable_examples.student_examples(config.sft_params, config.seed)


def _arc_sft(config: DataConfig) -> list[SftExample]:
  checked_params(config.sft_params, "sft_params", ())
  examples = []
  path = file_of(needed_path(config.sft_path, "sft_path"), "sft.jsonl")
  for where, row in json_lines(path):
    diagnosis = text_at(row, "teacher_diagnosis", where)
    teaching = text_at(row, "teacher_teaching", where)
    teaching = teaching.removeprefix("<teaching>").removesuffix("</teaching>")
    if "teaching>" in diagnosis + teaching or not teaching.strip():
      raise DataError(
        f"{where}: teacher_diagnosis and teacher_teaching must hold one"
        " teaching that is not empty, and no further <teaching> tags"
      )
    fields = {
      "question": text_at(row, "problem_text", where),
      "probe": text_at(row, "student_approach", where),
    }
    response = f"{diagnosis}\n<teaching>{teaching.strip()}</teaching>"
    examples.append(SftExample("teacher", fields, response, where))
  return examples


def _episodes(config: DataConfig) -> list[SftExample]:
  checked_params(config.sft_params, "sft_params", ())
  root = pathlib.Path(needed_path(config.sft_path, "sft_path"))
  files = sorted(root.glob("*.jsonl")) if root.is_dir() else [root]
  folder = root if root.is_dir() else root.parent
  kept = _kept_prompts(folder.absolute().parent / "best_prompts.json")
  if kept is not None:
    files = [file for file in files if file.name != "test.jsonl"]
  examples = {}
  for file in files:
    for where, row in json_lines(file):
      try:
        if kept not in (None, row.get("prompts")):
          continue
        row = _with_new_names(row)
        fields = {"question": row["question"], "probe": row["probe"]}
        for t in row["teachings"]:
          helped = t["status"] == "ok" and t["taught"]["status"] == "correct"
          if helped and not t["leaked"]:
            key = (row["question"], row["probe"], t["text"])
            example = SftExample("teacher", fields, t["text"], where)
            examples.setdefault(key, example)
      except (KeyError, TypeError) as error:
        raise DataError(
          f"{where}: not a line of an episodes file: {error!r} in it"
        ) from None
  return list(examples.values())


def _with_new_names(row: dict) -> dict:
  """A line of an episodes file; those of an older version by today's names."""
  if "approach" not in row:
    return row
  teachings = [
    {"taught" if k == "guided" else k: v for k, v in t.items()}
    for t in row["teachings"]
  ]
  # An older teacher read an empty probe as it was.
  return row | {"probe": row["approach"] or NO_PROBE, "teachings": teachings}


def _kept_prompts(path: pathlib.Path) -> str | None:
  """The fingerprint of what an optimisation kept; None: it is another run."""
  if not path.exists():
    return None
  content = files.read_json(path, DataError)
  try:
    stage = content["stage"]
    prompts = PromptsConfig(**by_new_names(content["prompts"]))
  except (KeyError, TypeError, AttributeError) as error:
    raise DataError(f"{path} cannot be read: {error!r}") from None
  if stage != "chosen":
    raise DataError(
      f"{path}: the optimisation has not chosen its prompts yet, so its"
      " episodes (config.data.sft_path) are no examples; run it to its end"
    )
  return fingerprint(prompts)


SFT_SOURCES = {
  "teachable_sft": _teachable_sft,
  "teachable_student": _teachable_student,
  "arc_sft": _arc_sft,
  "episodes": _episodes,
}


def read_sft(config: DataConfig) -> list[SftExample]:
  """The examples of `config.sft_source`."""
  return chosen(SFT_SOURCES, config.sft_source, "sft_source")(config)
