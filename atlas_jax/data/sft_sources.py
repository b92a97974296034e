"""SFT examples, by `config.data.sft_source`.

teachable_sft      a textbook teacher's teachings, for the built-in teacher
teachable_student  the dialogues of the built-in student
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
from atlas_jax.data import teachable_examples
from atlas_jax.data.params import checked_params, needed_path
from atlas_jax.data.problems import DataError, SftExample
from atlas_jax.data.tables import file_of, json_lines, text_at
from atlas_jax.teaching.prompts import fingerprint


def _teachable_sft(config: DataConfig) -> list[SftExample]:
  return teachable_examples.sft_examples(config.sft_params, config.seed)


def _teachable_student(config: DataConfig) -> list[SftExample]:
  return teachable_examples.student_examples(config.sft_params, config.seed)


def _arc_sft(config: DataConfig) -> list[SftExample]:
  checked_params(config.sft_params, "sft_params", (), ())
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
      "approach": text_at(row, "student_approach", where),
    }
    response = f"{diagnosis}\n<teaching>{teaching.strip()}</teaching>"
    examples.append(SftExample("teacher_adaptive", fields, response, where))
  return examples


def _episodes(config: DataConfig) -> list[SftExample]:
  checked_params(config.sft_params, "sft_params", (), ())
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
        fields = {"question": row["question"], "approach": row["approach"]}
        for t in row["teachings"]:
          helped = t["status"] == "ok" and t["guided"]["status"] == "correct"
          if helped and not t["leaked"]:
            key = (row["question"], row["approach"], t["text"])
            example = SftExample("teacher_adaptive", fields, t["text"], where)
            examples.setdefault(key, example)
      except (KeyError, TypeError) as error:
        raise DataError(
          f"{where}: not a line of an episodes file: {error!r} in it"
        ) from None
  return list(examples.values())


def _kept_prompts(path: pathlib.Path) -> str | None:
  """The fingerprint of an optimisation's prompts; None: of another run."""
  if not path.exists():
    return None
  content = files.read_json(path, DataError)
  try:
    stage, prompts = content["stage"], PromptsConfig(**content["prompts"])
  except (KeyError, TypeError) as error:
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
