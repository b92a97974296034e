"""The sources of SFT examples, by `config.data.sft_source`.

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
from collections.abc import Mapping

from atlas_jax import files
from atlas_jax.data import teachable_examples
from atlas_jax.data.problems import DataError, SftExample
from atlas_jax.data.sources import Source
from atlas_jax.data.tables import file_of, json_lines, text_at
from atlas_jax.teaching.prompts import fingerprint, load_prompts


def _arc_sft(path: str, _params: Mapping) -> list[SftExample]:
  examples = []
  for where, row in json_lines(file_of(path, "sft.jsonl")):
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


def _episodes(path: str, _params: Mapping) -> list[SftExample]:
  root = pathlib.Path(path)
  paths = sorted(root.glob("*.jsonl")) if root.is_dir() else [root]
  folder = root if root.is_dir() else root.parent
  kept = _kept_prompts(folder.absolute().parent / "best_prompts.json")
  if kept is not None:
    paths = [path for path in paths if path.name != "test.jsonl"]
  examples = {}
  for file in paths:
    for where, row in json_lines(file):
      try:
        fields = {"question": row["question"], "probe": row["probe"]}
        if kept not in (None, row.get("prompts")):
          continue
        for t in row["teachings"]:
          helped = t["status"] == "ok" and t["taught"]["status"] == "correct"
          if helped and not t["leaked"]:
            key = (row["question"], row["probe"], t["text"])
            if not all(isinstance(text, str) for text in key):
              raise TypeError(f"{key} are not all texts")
            example = SftExample("teacher", fields, t["text"], where)
            examples.setdefault(key, example)
      except (KeyError, TypeError) as error:
        raise DataError(
          f"{where}: not a line of an episodes file: {error!r} in it (of an"
          " older version approach is probe now, guided is taught)"
        ) from None
  return list(examples.values())


def _kept_prompts(path: pathlib.Path) -> str | None:
  """The fingerprint of an optimisation's prompts; None: of another run."""
  if not path.exists():
    return None
  prompts = load_prompts(path)
  if files.read_json(path).get("stage") != "chosen":
    raise DataError(
      f"{path}: the optimisation has not chosen its prompts yet, so its"
      " episodes (config.data.sft_path) are no examples; run it to its end"
    )
  return fingerprint(prompts)


SFT_SOURCES = {
  "teachable_sft": Source(
    teachable_examples.sft_examples,
    optional=vars(teachable_examples.TeacherParams()),
  ),
  "teachable_student": Source(
    teachable_examples.student_examples,
    optional=vars(teachable_examples.StudentParams()),
  ),
  "arc_sft": Source(_arc_sft, has_path=True),
  "episodes": Source(_episodes, has_path=True),
}
