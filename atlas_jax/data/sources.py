"""Where problems and SFT examples come from: one function a source.

Problems (`config.data.source`):
  teachable      the built-in procedural task; params are its own
  jsonl          path: one object a line with a question and an answer under
                 any of the names in QUESTION_KEYS and ANSWER_KEYS
  arc_rl         path: Arc-ATLAS-Teach rl.jsonl {prompt, ground_truth}
  gsm8k          path: GSM8K lines {question, answer}, answer after '####'
  tfds           params: name, split, question, answer (the two field names),
                 and as wanted data_dir, validation_split, test_split
  reasoning_gym  params: task, size, and as wanted params (the task's own)
  FILE.py:NAME   a function of config.data that returns problems, or objects
                 as the lines of jsonl; for validation_path and test_path it
                 is called again, with that as the path
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping

from atlas_jax import files, targets
from atlas_jax.config import DataConfig
from atlas_jax.data.problems import (
  DataError,
  Problem,
  make_problem,
)
from atlas_jax.teaching import families

QUESTION_KEYS = ("prompt", "problem_text", "question", "input")
ANSWER_KEYS = ("ground_truth", "answer", "solution")


def read(config: DataConfig) -> list[Problem]:
  """The problems of `config.path`, or of the generated source."""
  problems = _source(config)(config)
  if not problems:
    raise DataError(f"config.data.source={config.source}: no problems found")
  return problems


def read_own_splits(config: DataConfig) -> dict[str, list[Problem]]:
  """The splits that have a file, or a split name, of their own."""
  source = _source(config)
  own = {}
  for name in ("validation", "test"):
    path = getattr(config, f"{name}_path")
    if path is not None and source is _own:
      own[name] = _own(dataclasses.replace(config, path=path))
    elif path is not None:
      if config.source not in _FILE_SOURCES:
        raise DataError(
          f"config.data.{name}_path is for the sources"
          f" {', '.join(_FILE_SOURCES)}; {config.source} reads no file"
        )
      own[name] = _FILE_SOURCES[config.source](path)
    elif config.source == "tfds" and f"{name}_split" in config.params:
      own[name] = _tfds_split(config.params, f"{name}_split")
  return own


def _source(config: DataConfig):
  if ":" in config.source:
    return _own
  return chosen(SOURCES, config.source, "source")


def chosen(table: Mapping, name: str, key: str):
  """table[name]; an unknown name raises and lists the valid ones."""
  if name not in table:
    raise DataError(
      f"config.data.{key}={name!r} is unknown; valid: {', '.join(table)}"
    )
  return table[name]


def checked_params(given: Mapping, key: str, needed, optional=()) -> Mapping:
  """`given`, checked for missing and unknown names."""
  missing = [name for name in needed if name not in given]
  unknown = [name for name in given if name not in (*needed, *optional)]
  if missing or unknown:
    wrong = [f"{n} is missing" for n in missing]
    wrong += [f"{n} is unknown" for n in unknown]
    valid = ", ".join([*needed, *(f"{n} (optional)" for n in optional)])
    raise DataError(f"config.data.{key}: {'; '.join(wrong)}; valid: {valid}")
  return given


def json_lines(path: str | pathlib.Path) -> Iterator[tuple[str, dict]]:
  """('FILE:LINE', object) for each line that is not blank."""
  for where, line in files.lines(path, DataError):
    if line.strip():
      yield where, _row(line, where)


def _row(line: bytes, where: str) -> dict:
  """The object of a line; its numbers come as strings, with their digits."""

  def refuse(constant):
    raise ValueError(f"{constant} is not a JSON value")

  numbers = {"parse_float": str, "parse_int": str, "parse_constant": refuse}
  row = files.parse(line, where, DataError, **numbers)
  if not isinstance(row, dict):
    raise DataError(
      f"{where}: expected an object such as"
      ' {"question": ..., "answer": ...},'
      f" got {type(row).__name__}"
    )
  return row


def text_at(row: Mapping, key: str, where: str) -> str:
  """The non-empty text (or number, as text) under `key`."""
  value = row.get(key)
  if not isinstance(value, str) or not value.strip():
    state = "is missing" if key not in row else f"is {value!r}"
    raise DataError(
      f"{where}: {key!r} {state}; it must be a text or a number that is not"
      f" empty; the line has {', '.join(row) or 'no keys'}"
    )
  return value.strip()


def _alias(row: Mapping, names, where: str) -> tuple[str, str]:
  """(the alias found, its text); two aliases must agree."""
  found = [name for name in names if name in row and row[name] is not None]
  if not found:
    raise DataError(
      f"{where}: none of the keys {', '.join(names)} has a value; the line"
      f" has {', '.join(row) or 'no keys'}"
    )
  texts = {name: text_at(row, name, where) for name in found}
  if len(set(texts.values())) > 1:
    raise DataError(
      f"{where}: {' and '.join(found)} are names of the same thing and"
      f" differ; keep one of {', '.join(names)}"
    )
  return found[0], texts[found[0]]


def needed_path(path: str | None, key: str) -> str:
  if path is None:
    raise DataError(f"config.data.{key} is needed by this source")
  return path


def _jsonl(path: str) -> list[Problem]:
  return [_problem(row, where) for where, row in json_lines(path)]


def _problem(row: Mapping, where: str) -> Problem:
  _, question = _alias(row, QUESTION_KEYS, where)
  _, answer = _alias(row, ANSWER_KEYS, where)
  known = (*QUESTION_KEYS, *ANSWER_KEYS)
  meta = {k: v for k, v in row.items() if k not in known}
  return make_problem(question, answer, meta=meta)


def _own(config: DataConfig) -> list[Problem]:
  """What a function of the user's returns, held to what a file is held to."""
  load = targets.function(config.source, "config.data.source", takes=1)
  try:
    given = list(load(config))
  except (Exception, SystemExit) as error:
    raise DataError(
      f"config.data.source={config.source}: {targets.raised(error, load)}"
    ) from error
  problems = []
  for index, item in enumerate(given):
    where, row = f"{config.source}[{index}]", item
    if isinstance(item, Problem):
      if item.verifier != "answer":
        raise DataError(
          f"{where} names the verifier {item.verifier!r}; one of your own"
          " stands in config.data.verifier"
        )
      row = {**item.meta, "question": item.question, "answer": item.answer}
    try:
      line = json.dumps(row).encode()
    except (TypeError, ValueError, RecursionError) as error:
      raise DataError(f"{where}: {error}") from None
    problems.append(_problem(_row(line, where), where))
  return problems


def _arc_rl(path: str) -> list[Problem]:
  return [
    make_problem(
      text_at(row, "prompt", where), text_at(row, "ground_truth", where)
    )
    for where, row in json_lines(path)
  ]


def _gsm8k(path: str) -> list[Problem]:
  problems = []
  for where, row in json_lines(path):
    question = text_at(row, "question", where)
    before, marker, answer = text_at(row, "answer", where).rpartition("####")
    if not marker or not answer.strip():
      raise DataError(
        f"{where}: 'answer' must end with '#### ANSWER', got"
        f" {(before + marker + answer)[-60:]!r}"
      )
    problems.append(make_problem(question, answer.strip()))
  return problems


_FILE_SOURCES = {"jsonl": _jsonl, "arc_rl": _arc_rl, "gsm8k": _gsm8k}


def _file_source(reader):
  def read_file(config: DataConfig) -> list[Problem]:
    checked_params(config.params, "params", ())
    return reader(needed_path(config.path, "path"))

  return read_file


def _no_path(config: DataConfig) -> None:
  if config.path is not None:
    raise DataError(
      f"config.data.path={config.path!r}: the source {config.source} reads"
      f" no file; sources that do: {', '.join(_FILE_SOURCES)}"
    )


def _tfds(config: DataConfig) -> list[Problem]:
  _no_path(config)
  return _tfds_split(config.params, "split")


def _tfds_split(params: Mapping, split_key: str) -> list[Problem]:
  checked_params(
    params,
    "params",
    ("name", "split", "question", "answer"),
    ("data_dir", "validation_split", "test_split"),
  )
  import tensorflow_datasets as tfds

  data_dir = params.get("data_dir")
  split = params[split_key]
  where = f"{params['name']}:{split}"
  try:
    # Random access through array_record: needs no tensorflow.
    rows = tfds.data_source(params["name"], split=split, data_dir=data_dir)
  except Exception as error:
    first_line = str(error).strip().split("\n")[0]
    raise DataError(f"tensorflow-datasets {where}: {first_line}") from error
  problems = []
  for index in range(len(rows)):
    row = {k: _plain(v) for k, v in rows[index].items()}
    at = f"{where}[{index}]"
    problems.append(
      make_problem(
        text_at(row, params["question"], at), text_at(row, params["answer"], at)
      )
    )
  return problems


def _plain(value):
  """A tfds feature as text where it is a text or a number."""
  if isinstance(value, bytes):
    return value.decode("utf-8")
  if getattr(value, "ndim", 1) == 0 or isinstance(value, (int, float)):
    return str(value)
  return value


def _reasoning_gym(config: DataConfig) -> list[Problem]:
  _no_path(config)
  params = checked_params(
    config.params, "params", ("task", "size"), ("params",)
  )
  task = params["task"]
  if why := families.refusal(task):
    raise DataError(f"config.data.params.task={task}: {why}")
  import reasoning_gym

  own = params.get("params") or {}
  try:
    dataset = reasoning_gym.create_dataset(
      task, size=params["size"], seed=config.seed, **own
    )
  except Exception as error:
    raise DataError(f"reasoning_gym task {task!r}: {error}") from error
  problems = {}
  for entry in dataset:
    problem = make_problem(
      entry["question"],
      str(entry["answer"]),
      verifier="reasoning_gym",
      meta={"task": task, "entry": entry},
    )
    # Small tasks repeat questions; either entry scores any valid answer.
    problems.setdefault(problem.id, problem)
  return list(problems.values())


def _teachable(config: DataConfig) -> list[Problem]:
  _no_path(config)
  from atlas_jax.data import teachable

  return teachable.problems(config.params, config.seed)


SOURCES = {
  "teachable": _teachable,
  **{name: _file_source(reader) for name, reader in _FILE_SOURCES.items()},
  "tfds": _tfds,
  "reasoning_gym": _reasoning_gym,
}
