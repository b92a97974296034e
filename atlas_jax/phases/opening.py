"""All that a run reads before its first phase, checked: nothing starts before.

1. What a config leaves open is settled at the first start, and kept in
   config.json from then on:
     names of the Hub   with the commit that they meant: ORG/NAME@COMMIT
     template_date      the day
     data.fingerprint   of its problems and examples (of one data config and
                        its phases)
2. Problems and examples are read; they must be those that the run began with.
3. What would fail later is refused: functions of the user's, row lengths, W&B.
4. Problems and examples that are too long are left out (fitting.py).
"""

import dataclasses
import datetime
import hashlib
import json
import operator
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax._src import distributed

import atlas_jax
from atlas_jax import config_tree, directory, hub, metrics, multihost, targets
from atlas_jax.config import ConfigError, RunConfig
from atlas_jax.data import packing, splits
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.problems import DataError, SftExample
from atlas_jax.phases.fitting import fitting, fitting_sequences
from atlas_jax.phases.guests import Guests, invited
from atlas_jax.phases.servers import Student
from atlas_jax.phases.teacher import Teacher
from atlas_jax.teaching.prompts import Prompts

_COMMIT = re.compile("@[0-9a-f]{40}$")


@dataclasses.dataclass(frozen=True)
class Opened:
  """What a run works with; student is None where no phase samples."""

  config: RunConfig
  prompts: Prompts
  splits: splits.Splits
  sft_sequences: list[packing.TokenSequence]
  teacher: Teacher
  student: Student | None
  guests: Guests


def samples(config: RunConfig) -> bool:
  """Whether any phase needs the servers."""
  return bool({"grpo", "evaluate"} & {*config.phases})


def check_same(config: RunConfig) -> None:
  """Refuses processes that were not started as the lead was. A collective.

  They would compute together what is not the same, or wait for each other.
  """
  if jax.process_count() == 1:
    return
  code, package = hashlib.sha256(), pathlib.Path(atlas_jax.__file__).parent
  for path in sorted(package.rglob("[!.]*.py")):  # none of an editor
    code.update(path.read_bytes())
  here = {
    "config": json.loads(json.dumps(dataclasses.asdict(config))),
    "num_processes": distributed.global_state.num_processes,
    "JAX": jax.__version__,
    "code": code.hexdigest()[:12],
  }
  lead = multihost.broadcast_json(here)

  def compare():
    for key, theirs, ours in config_tree.difference(lead, here):
      raise multihost.HostsError(
        f"this process was started with {key}={ours!r}, the lead with"
        f" {theirs!r}: all must have one command and one checkout"
      )

  multihost.call_on_all(compare)


def open_run(config: RunConfig, workdir: pathlib.Path) -> Opened:
  """Reads and checks what the run in `workdir` needs. A collective.

  Raises:
    AtlasError: what is wrong with it, in one line.
  """
  if config.wandb_project is not None:
    metrics.import_wandb()
  config, phases = settled(config, workdir), config.phases
  config, all_splits, examples = read_data(config)
  check_rows(config, jax.sharding.get_mesh())
  prompts = Prompts(config.prompts, config.episode.stated_probe_tokens)
  read = not config.teacher.random_init
  model = hub.directory(config.teacher.path, "model", weights=read)
  chat, student = ChatTokenizer.from_dir(model, config.template_date), None
  if samples(config):
    at = config.serving.student.elsewhere
    student = Student.of(config.student.path, config, at)
  teacher, guests = Teacher(config.teacher, model, chat, config.seed), Guests()
  if "evaluate" in phases:
    guests = invited(config, teacher, prompts)
  sequences = []
  if "sft" in phases:
    sequences = fitting_sequences(examples, prompts, chat, config)
  for split, words, met in _asked_of_students(config, prompts, student, guests):
    given = getattr(all_splits, split)
    served = _replaced(config, "serving.student.url", None)
    served = _replaced(served, "serving.student.urls", met.urls)
    kept = fitting(given, split, words, chat, met.chat, served)
    all_splits = dataclasses.replace(all_splits, **{split: kept})
  return Opened(
    config, prompts, all_splits, sequences, teacher, student, guests
  )


def read_data(
  config: RunConfig,
) -> tuple[RunConfig, splits.Splits, list[SftExample]]:
  """(the config with their fingerprint, problems, examples of SFT).

  Raises:
    AtlasError: they cannot be read, are not those that the run began with, or
      a function that judges answers to them cannot be called.
  """
  all_splits, examples = splits.load(config.data), []
  if "sft" in config.phases:
    held_out = all_splits.validation + all_splits.test
    examples = splits.load_sft(config.data, held_out)
  config = _with_fingerprint(config, splits.fingerprint(all_splits, examples))
  if "grpo" in config.phases:
    for key, term in config.reward.extra.items():
      where = f"config.reward.extra.{key}.function"
      targets.function(term["function"], where, takes=1)
  return config, all_splits, examples


def check_rows(config: RunConfig, mesh: jax.sharding.Mesh) -> None:
  """Raises ConfigError where the mesh does not cut rows into equal parts."""
  parts = mesh.shape["context"]
  for phase in {"sft", "grpo"} & {*config.phases}:
    length = getattr(config, phase).row_length
    if length % parts:
      raise ConfigError(
        f"config.{phase}.row_length={length} does not divide over"
        f" config.mesh.context={parts}"
      )


def _asked_of_students(
  config: RunConfig, prompts: Prompts, student: Student, guests: Guests
) -> Iterator[tuple[str, Prompts, Student]]:
  """(split, templates, student) of all problems that are asked of a student."""
  if "grpo" in config.phases:
    yield "train", prompts, student
    if config.grpo.evaluate_every is not None:
      yield "validation", prompts, student
  if "evaluate" in config.phases:
    of_guests = (words for *_, words in (*guests.teachers, *guests.prompts))
    for words in dict.fromkeys((prompts, *of_guests)):
      for met in (student, *guests.students):
        yield config.evaluate.split, words, met


def settled(config: RunConfig, workdir: pathlib.Path) -> RunConfig:
  """`config` as the run in `workdir` began with it. A collective.

  Raises:
    HubError: a name is of nothing that can be had.
    RunError, ConfigError: the config.json there cannot be read.
  """
  found = multihost.call_on_lead(lambda: _found(config, workdir))
  for path, value in found.items():
    value = tuple(value) if isinstance(value, list) else value
    config = _replaced(config, path, value)
  return config


def _found(config: RunConfig, workdir: pathlib.Path) -> dict[str, Any]:
  """Dotted keys -> what they have been settled to."""
  before = config
  if (workdir / "config.json").exists():
    before = directory.read_config(workdir)
  date = config.template_date or before.template_date
  found = {"template_date": date or datetime.date.today().isoformat()}
  paths = ["teacher.path"]
  paths += ["student.path"] if samples(config) else []
  if "evaluate" in config.phases:
    paths += ["evaluate.teachers", "evaluate.students"]
  for path in paths:
    names, were = (operator.attrgetter(path)(c) for c in (config, before))
    if isinstance(names, str):
      found[path] = _pinned(names, [were])
    else:
      found[path] = [_pinned(name, were) for name in names]
  data = dataclasses.replace(before.data, fingerprint=None)
  # Examples of SFT are read where a phase of it is.
  if (data, before.phases) == (config.data, config.phases):
    found["data.fingerprint"] = before.data.fingerprint
  return found


def _pinned(name: str, were: Iterable[str]) -> str:
  """A name of the Hub with the commit that it had, or has; a path as it is."""
  if not hub.is_name(name) or _COMMIT.search(name):
    return name
  for was in were:
    same = was.partition("@")[0] == name.partition("@")[0]
    if same and _COMMIT.search(was):
      return was
  return hub.pinned(name)


def _replaced(config, path: str, value):
  """`config` with another value at a dotted path."""
  key, _, rest = path.partition(".")
  if rest:
    value = _replaced(getattr(config, key), rest, value)
  return dataclasses.replace(config, **{key: value})


def _with_fingerprint(config: RunConfig, fingerprint: str) -> RunConfig:
  """The config with the fingerprint of the problems and examples."""
  before = config.data.fingerprint
  if before not in (None, fingerprint):
    raise DataError(
      "the problems or examples of config.data are not those that the run"
      f" began with ({before}, now {fingerprint}): put back what was in their"
      " files, or choose another --workdir"
    )
  return _replaced(config, "data.fingerprint", fingerprint)
