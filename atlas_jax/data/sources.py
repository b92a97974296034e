"""The sources of problems, by `config.data.source`.

teachable      the built-in procedural task; params are its own
hf, jsonl      path: rows with a question and an answer under any of the names
               in QUESTION_KEYS and ANSWER_KEYS, or params `question` and
               `answer`
arc_rl         path: Arc-ATLAS-Teach, or its rl.jsonl {prompt, ground_truth}
gsm8k          path: GSM8K rows {question, answer}, answer after '####'
               (a path is what tables.py reads; of a directory or a data set of
               the Hub params may give name, split, files, validation_split and
               test_split)
tfds           params: name, split, question, answer (the two field names), and
               as wanted data_dir, validation_split, test_split
reasoning_gym  params: task, size, and as wanted params (the task's own)
FILE.py:NAME   a function of config.data that returns problems, or objects as
               the lines of jsonl; for validation_path and test_path it is
               called again, with that as the path
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from atlas_jax import targets
from atlas_jax.config import DataConfig
from atlas_jax.data import tables, teachable
from atlas_jax.data.problems import DataError, Problem, make_problem
from atlas_jax.data.tables import Rows, plain, text_at
from atlas_jax.teaching import families
from atlas_jax.teaching.equality import exact_equal

QUESTION_KEYS = ("prompt", "problem_text", "question", "input")
ANSWER_KEYS = ("ground_truth", "answer", "solution")
# Names of params that are text.
_TEXTS = "task name question answer split validation_split test_split data_dir"


@dataclass(frozen=True)
class Source:
  """A source of problems or SFT examples: its reader, params and path.

  One with a path is read by read(path, params), one that makes its own
  problems by read(params, seed).
  """

  read: Callable[..., list]
  needed: Collection[str] = ()  # names of params
  optional: Collection[str] = ()
  has_path: bool = False


def read_named(
  sources: Mapping[str, Source], config: DataConfig, prefix: str = ""
) -> list:
  """The problems or examples of the source that config.data names.

  Args:
    sources: the valid ones.
    config: config.data.
    prefix: of the keys source, params and path: "" or "sft_".

  Raises:
    DataError: an unknown source or name of a parameter, a parameter or path
      that is missing, or a path that is not read.
  """
  name = getattr(config, f"{prefix}source")
  if name not in sources:
    raise DataError(
      f"config.data.{prefix}source={name!r} is unknown; valid:"
      f" {', '.join(sources)}"
    )
  source = sources[name]
  given = getattr(config, f"{prefix}params")
  params = {key: value for key, value in given.items() if value is not None}
  valid = [*source.needed, *source.optional]
  wrong = [f"{key} is missing" for key in source.needed if key not in params]
  wrong += [f"{key} is unknown" for key in given if key not in valid]
  words = [key for key in params if key in _TEXTS.split()]
  wrong += [f"{n} must be text" for n in words if type(params[n]) is not str]
  if wrong:
    raise DataError(
      f"config.data.{prefix}params: {'; '.join(wrong)}; valid:"
      f" {', '.join(valid) or 'none'}"
    )
  path = getattr(config, f"{prefix}path")
  if source.has_path != (path is not None):
    wrong = f"config.data.{prefix}path is needed"
    if not source.has_path:
      wrong = f"the path {path!r} in config.data is not read"
    valid = [name for name, other in sources.items() if other.has_path]
    raise DataError(
      f"{wrong} by the source {name}; sources with a path: {', '.join(valid)}"
    )
  if source.has_path:
    return source.read(path, params)
  return source.read(params, config.seed)


def read(config: DataConfig) -> list[Problem]:
  """The problems of `config.path`, or of a source that reads no file.

  Raises:
    DataError: no such source, params that it does not take, or no problem.
  """
  own = ":" in config.source
  problems = _own(config) if own else read_named(SOURCES, config)
  if not problems:
    place = "" if config.path is None else f" in {config.path}"
    raise DataError(
      f"config.data.source={config.source}: no problems found{place}"
    )
  return problems


def read_own_splits(config: DataConfig) -> dict[str, list[Problem]]:
  """The splits that have a path, or a split name, of their own."""
  own = {}
  for name in ("validation", "test"):
    path = getattr(config, f"{name}_path")
    split = config.params.get(f"{name}_split")
    if path is not None:
      own[name] = read(replace(config, path=path))
    elif split is not None and ":" not in config.source:
      params = {**config.params, "split": split}
      own[name] = read(replace(config, params=params))
  return own


def _problems(
  rows: Rows, questions: tuple[str, ...], answers: tuple[str, ...]
) -> list[Problem]:
  """A problem of each row; its other keys are the problem's `meta`."""
  problems = []
  for where, row in rows:
    question = _text_of(row, questions, where)
    answer = _text_of(row, answers, where)
    meta = {k: v for k, v in row.items() if k not in (*questions, *answers)}
    problems.append(make_problem(question, answer, meta=meta, where=where))
  return problems


def _text_of(row: Mapping, names: tuple[str, ...], where: str) -> str:
  """The text under any of these keys; where two have one, they must agree."""
  found = [name for name in names if row.get(name) is not None]
  if not found:
    raise DataError(
      f"{where}: none of the keys {', '.join(names)} has a value; the line"
      f" has {', '.join(row) or 'no keys'}"
    )
  first, *others = (text_at(row, name, where) for name in found)
  if not all(exact_equal(first, other) for other in others):
    raise DataError(
      f"{where}: {' and '.join(found)} are names of the same thing and"
      f" differ; keep one of {', '.join(names)}"
    )
  return first


def _table(path: str, params: Mapping) -> Rows:
  names = ("name", "split", "files")
  return tables.rows(path, **{k: params[k] for k in names if k in params})


def _pairs(path: str, params: Mapping) -> list[Problem]:
  names = {"question": QUESTION_KEYS, "answer": ANSWER_KEYS}
  for key in names.keys() & params.keys():
    names[key] = (params[key],)
  return _problems(_table(path, params), names["question"], names["answer"])


def _arc_rl(path: str, params: Mapping) -> list[Problem]:
  rows = _table(tables.file_of(path, "rl.jsonl"), params)
  return _problems(rows, ("prompt",), ("ground_truth",))


def _gsm8k(path: str, params: Mapping) -> list[Problem]:
  problems = []
  for problem in _problems(_table(path, params), ("question",), ("answer",)):
    _, marker, answer = problem.answer.rpartition("####")
    if not marker or not answer.strip():
      raise DataError(
        f"{problem.where}: 'answer' must end with '#### ANSWER', got"
        f" {problem.answer[-60:]!r}"
      )
    problems.append(replace(problem, answer=answer.strip()))
  return problems


def _own(config: DataConfig) -> list[Problem]:
  """The problems of a user's function, checked as the rows of a file are."""
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
  return _problems(iter(rows), QUESTION_KEYS, ANSWER_KEYS)


def _tfds(params: Mapping, _seed: int) -> list[Problem]:
  import tensorflow_datasets as tfds

  where = f"{params['name']}:{params['split']}"
  try:
    # Random access through array_record: needs no tensorflow.
    found = tfds.data_source(
      params["name"], split=params["split"], data_dir=params.get("data_dir")
    )
  except Exception as error:
    first_line = str(error).strip().split("\n")[0]
    raise DataError(f"tensorflow-datasets {where}: {first_line}") from error
  rows = (
    (f"{where}[{i}]", {k: plain(v) for k, v in found[i].items()})
    for i in range(len(found))
  )
  return _problems(rows, (params["question"],), (params["answer"],))


def _reasoning_gym(params: Mapping, seed: int) -> list[Problem]:
  task, size = params["task"], params["size"]
  if why := families.refusal(task):
    raise DataError(f"config.data.params.task={task}: {why}")
  import reasoning_gym

  own = params.get("params") or {}
  try:
    dataset = reasoning_gym.create_dataset(task, size=size, seed=seed, **own)
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


_SPLITS = ("validation_split", "test_split")
_TABLE = ("name", "split", "files", *_SPLITS)
_PAIRS = Source(_pairs, optional=("question", "answer", *_TABLE), has_path=True)
SOURCES = {
  "teachable": Source(
    teachable.problems, optional=vars(teachable.ProblemParams())
  ),
  "hf": _PAIRS,
  "jsonl": _PAIRS,
  "arc_rl": Source(_arc_rl, optional=_TABLE, has_path=True),
  "gsm8k": Source(_gsm8k, optional=_TABLE, has_path=True),
  "tfds": Source(
    _tfds, ("name", "split", "question", "answer"), ("data_dir", *_SPLITS)
  ),
  "reasoning_gym": Source(_reasoning_gym, ("task", "size"), ("params",)),
}
