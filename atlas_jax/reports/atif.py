"""Attempts of an evaluation as ATIF, a transcript format that viewers read.

ATIF is the Agent Trajectory Interchange Format of the Harbor project (its RFC
1; what is written here is of version 1.4, which later ones read): one JSON
object an attempt, with numbered steps. Here the problem is the user's step; the
student's plan, the teacher's guidance and the student's answer are the agents'.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence

import atlas_jax
from atlas_jax import config_tree, directory
from atlas_jax.reports.reading import RunFiles

SCHEMA = "ATIF-v1.4"


def _models(config: Mapping, line: Mapping) -> dict[str, str]:
  """role -> its model, of an attempt of a run that trains or optimises."""
  flat = dict(config_tree.flat(config))
  models = {
    role: str(flat[key])
    for role in ("student", "teacher")
    for key in (f"{role}.model", f"{role}.path")
    if flat.get(key) is not None
  }
  if line["student"] is not None:
    models["student"] = line["student"]
  if line["teacher_text"] is None:  # a constant teaching is of no model
    models.pop("teacher", None)
  for guest in flat.get("evaluate.teachers") or ():
    if line["arm"].endswith(f"teacher of {guest}"):
      models["teacher"] = guest
  return models


def _steps(line: Mapping, models: Mapping[str, str]) -> Iterator[dict]:
  """The steps of an attempt, without their numbers; models: by role."""

  def said(role: str, what: str, text: str, source=line, keys=()) -> dict:
    named = {"model_name": models[role]} if role in models else {}
    extra = {"role": role, "what": what, **{key: source[key] for key in keys}}
    return {"source": "agent", "message": text, "extra": extra, **named}

  yield {"source": "user", "message": line["question"]}
  if line["probe"] is not None:
    yield said("student", "plan", line["probe"])
  if line["teaching"] is not None or line["teacher_text"] is not None:
    known = ("status", "leaked", "teaching_tokens", "weight_version")
    step = said("teacher", "teaching", line["teaching"] or "", keys=known)
    if line["teacher_text"] is not None:
      step["reasoning_content"] = line["teacher_text"]
    yield step
  solution = line["solution"]
  known = ("status", "score", "answer", "rule", "finish_reason")
  step = said("student", "answer", solution["text"], solution, known)
  yield {**step, "metrics": {"completion_tokens": solution["tokens"]}}


def trajectory(run: RunFiles, line: Mapping) -> dict:
  """An attempt of the run as one ATIF object."""
  steps = enumerate(_steps(line, _models(run.config, line)), start=1)
  steps = [{"step_id": number, **step} for number, step in steps]
  known = ("arm", "id", "sample", "answer", "kind", "seconds")
  names = (run.workdir.name, line["arm"], line["id"], line["sample"])
  return {
    "schema_version": SCHEMA,
    "session_id": "/".join(map(str, names)),
    "agent": {"name": "atlas_jax", "version": atlas_jax.__version__},
    "steps": steps,
    "final_metrics": {"total_steps": len(steps)},
    "extra": {key: line[key] for key in known},
  }


def write(
  run: RunFiles, lines: Sequence[Mapping], folder: pathlib.Path
) -> None:
  """Writes a file for each attempt: 0001.json, 0002.json, ..."""
  folder.mkdir(parents=True, exist_ok=True)
  for number, line in enumerate(lines, start=1):
    directory.write_json(folder / f"{number:04}.json", trajectory(run, line))
