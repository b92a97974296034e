"""Where problems and SFT examples come from: one function a source.

Problems (`config.data.source`):
  teachable      the built-in procedural task; params are its own
  hf, jsonl      path: rows with a question and an answer under any of the
                 names in QUESTION_KEYS and ANSWER_KEYS, or params `question`
                 and `answer`
  arc_rl         path: Arc-ATLAS-Teach rl.jsonl {prompt, ground_truth}
  gsm8k          path: GSM8K rows {question, answer}, answer after '####'
                 (a path is what tables.py reads; of a directory or a data set
                 of the Hub params may give name, split, files,
                 validation_split and test_split)
  tfds           params: name, split, question, answer (the two field names),
                 and as wanted data_dir, validation_split, test_split
  reasoning_gym  params: task, size, and as wanted params (the task's own)
  FILE.py:NAME   a function of config.data that returns problems, or objects
                 as the lines of jsonl; for validation_path and test_path it
                 is called again, with that as the path
"""

import dataclasses
import json
from collections.abc import Mapping

from atlas_jax import targets
from atlas_jax.config import DataConfig
from atlas_jax.data import tables
from atlas_jax.data.problems import (
  DataError,
  Problem,
  make_problem,
)
from atlas_jax.data.tables import Rows, plain
from atlas_jax.teaching import families
from atlas_jax.teaching.equality import exact_equal

QUESTION_KEYS = ("prompt", "problem_text", "question", "input")
ANSWER_KEYS = ("ground_truth", "answer", "solution")
_OF_TABLES = ("name", "split", "files", "validation_split", "test_split")


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
      own[name] = _table(config, path, config.params)
    elif config.source in _FILE_SOURCES and f"{name}_split" in config.params:
      params = {**config.params, "split": config.params[f"{name}_split"]}
      own[name] = _table(config, needed_path(config.path, "path"), params)
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


def text_at(row: Mapping, key: str, where: str) -> str:
  """The non-empty text (or number, as text) under `key`."""
  value = row.get(key)
  if not isinstance(value, str) or not value.strip():
    state = "is missing" if key not in row else f"is {value!r}"
    raise DataError(
      f"{where}: {key!r} {state}; it must be a text or a number that is not"
      f" empty; the line has {', '.join(row) or 'no keys'}"
    )
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise DataError(f"{where}: {key!r} is no text: {error.reason}") from None
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
  if not all(exact_equal(texts[found[0]], text) for text in texts.values()):
    raise DataError(
      f"{where}: {' and '.join(found)} are names of the same thing and"
      f" differ; keep one of {', '.join(names)}"
    )
  return found[0], texts[found[0]]


def needed_path(path: str | None, key: str) -> str:
  if path is None:
    raise DataError(f"config.data.{key} is needed by this source")
  return path


def _pairs(rows: Rows, params: Mapping) -> list[Problem]:
  def names(key, usual):
    return (params[key],) if key in params else usual

  questions = names("question", QUESTION_KEYS)
  answers = names("answer", ANSWER_KEYS)
  problems = []
  for where, row in rows:
    _, question = _alias(row, questions, where)
    _, answer = _alias(row, answers, where)
    known = (*questions, *answers)
    meta = {k: v for k, v in row.items() if k not in known}
    problems.append(make_problem(question, answer, meta=meta, where=where))
  return problems


def _own(config: DataConfig) -> list[Problem]:
  """What a function of the user's returns, held to what a file is held to."""
  load = targets.function(config.source, "config.data.source", takes=1)
  try:
    given = list(load(config))
  except (Exception, SystemExit) as error:
    raise DataError(
      f"config.data.source={config.source}: {targets.raised(error, load)}"
    ) from error
  rows = []
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
    rows.append((where, tables.row_of(line, where)))
  return _pairs(iter(rows), {})


def _arc_rl(rows: Rows, params: Mapping) -> list[Problem]:
  return _pairs(rows, {"question": "prompt", "answer": "ground_truth"})


def _gsm8k(rows: Rows, params: Mapping) -> list[Problem]:
  problems = []
  for where, row in rows:
    question = text_at(row, "question", where)
    before, marker, answer = text_at(row, "answer", where).rpartition("####")
    if not marker or not answer.strip():
      raise DataError(
        f"{where}: 'answer' must end with '#### ANSWER', got"
        f" {(before + marker + answer)[-60:]!r}"
      )
    problems.append(make_problem(question, answer.strip(), where=where))
  return problems


# source -> (its reader, the params that this takes)
_FILE_SOURCES = {
  "hf": (_pairs, ("question", "answer")),
  "jsonl": (_pairs, ("question", "answer")),
  "arc_rl": (_arc_rl, ()),
  "gsm8k": (_gsm8k, ()),
}


def _table(config: DataConfig, path: str, params: Mapping) -> list[Problem]:
  """The problems of a table, by the source's names for its fields."""
  reader, optional = _FILE_SOURCES[config.source]
  checked_params(config.params, "params", (), (*optional, *_OF_TABLES))
  if config.source == "arc_rl":
    path = tables.file_of(path, "rl.jsonl")
  given = {k: params[k] for k in ("name", "split") if k in params}
  if "files" in params:
    given["data_files"] = params["files"]
  return reader(tables.rows(path, **given), params)


def _tables(config: DataConfig) -> list[Problem]:
  return _table(config, needed_path(config.path, "path"), config.params)


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
    row = {k: plain(v) for k, v in rows[index].items()}
    at = f"{where}[{index}]"
    problems.append(
      make_problem(
        text_at(row, params["question"], at),
        text_at(row, params["answer"], at),
        where=at,
      )
    )
  return problems


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
  **dict.fromkeys(_FILE_SOURCES, _tables),
  "tfds": _tfds,
  "reasoning_gym": _reasoning_gym,
}
