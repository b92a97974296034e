"""Teachers, prompts and students that an evaluation has beside the run's own.

  config.evaluate.teachers   run directories, whose teachers are as they were
                             trained last, each with the prompts of its run;
                             or models, with the prompts of this run
  config.evaluate.prompts    files such as best_prompts.json, for this run's
                             teacher
  config.evaluate.students   models that are taught, one after the other

All are read and checked here, but for weights, before anything starts.
"""

import contextlib
import dataclasses
import pathlib
from dataclasses import dataclass

from atlas_jax import directory, files, hub, multihost
from atlas_jax.config import (
  ConfigError,
  LoraConfig,
  PromptsConfig,
  RunConfig,
)
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.model import decoder
from atlas_jax.phases import trained
from atlas_jax.phases.servers import AGREEMENT_TEXT, Student
from atlas_jax.phases.teacher import Teacher
from atlas_jax.teaching.prompts import Prompts, load_prompts

# Weights of guests have versions that the run's own never reach.
_FIRST_VERSION = 1_000_000


@dataclass(frozen=True)
class Guests:
  """By their names in the config; teachers with their prompts."""

  teachers: tuple[tuple[str, Teacher, Prompts], ...] = ()
  prompts: tuple[tuple[str, Prompts], ...] = ()
  students: tuple[Student, ...] = ()


class Guest(Teacher):
  """A teacher whose weights are read each time that they are asked for.

  Attributes:
    run: (directory, config) of the run that trained it; no config: they are
      as the directory has them.
  """

  run: tuple[pathlib.Path, RunConfig | None]

  def _read(self) -> decoder.Decoder:
    path, config = self.run
    if config is None:
      return self.first_model()
    with _locked(path):
      return trained.read(path, config, self)[1]


def invited(config: RunConfig, own: Teacher, prompts: Prompts) -> Guests:
  """The guests of config.evaluate. A collective.

  Args:
    config: of the run, settled.
    own: the run's teacher.
    prompts: the run's.

  Raises:
    AtlasError: one is not there, or cannot take its place; in one line.
  """
  c = config.evaluate

  def parsed(templates: PromptsConfig) -> Prompts:
    if templates == config.prompts:
      return prompts
    return Prompts(templates, config.episode.stated_probe_tokens)

  teachers = []
  for number, name in enumerate(c.teachers):
    path = hub.directory(name, "model")
    run = _run_of(path)
    if run is None:
      options = dataclasses.replace(
        own.options, path=name, random_init=False, lora=LoraConfig()
      )
      words, model = prompts, path
    else:
      options, words = run.teacher, parsed(run.prompts)
      model = hub.directory(run.teacher.path, "model")
    teacher = Guest(options, model, own.chat, (run or config).seed)
    teacher.version, teacher.run = _FIRST_VERSION + number, (path, run)
    _check(name, teacher, own, config)
    teachers.append((name, teacher, words))
  urls = c.student_urls or [None] * len(c.students)
  return Guests(
    tuple(teachers),
    tuple((name, parsed(load_prompts(name))) for name in c.prompts),
    tuple(
      Student(name, _chat(name, config), url, name)
      for name, url in zip(c.students, urls, strict=True)
    ),
  )


def _chat(path: str | pathlib.Path, config: RunConfig) -> ChatTokenizer:
  model = hub.directory(path, "model")
  return ChatTokenizer.from_dir(model, config.template_date)


def _run_of(path: pathlib.Path) -> RunConfig | None:
  """The config of the run in `path` that has trained; None: it is a model."""

  def is_run() -> bool:
    file = path / "config.json"
    return file.exists() and "phases" in files.read_json(file)

  if not multihost.call_on_lead(is_run):
    return None
  run = directory.read_config(path)
  with _locked(path):
    trained.last_phase(path, run)
  return run


@contextlib.contextmanager
def _locked(path: pathlib.Path):
  """Holds a run directory; one in progress is refused. A collective."""
  with contextlib.ExitStack() as stack:

    def lock() -> None:
      try:
        stack.enter_context(directory.lock(path))
      except OSError as error:
        raise ConfigError(
          f"config.evaluate.teachers: {path} cannot be locked"
          f" ({error.strerror}); name a model that it has exported"
        ) from None

    multihost.call_on_lead(lock)
    yield


def _check(name: str, guest: Guest, own: Teacher, config: RunConfig) -> None:
  """One server has the teachers in turn: all but their weights is the same."""
  which = ""
  if guest.decoder_config != own.decoder_config:
    which = "architecture"
  elif guest.directory != own.directory:
    one, two = own.chat, _chat(guest.directory, config)
    ids = (chat.prompt_ids(AGREEMENT_TEXT) for chat in (one, two))
    if one.vocab_size != two.vocab_size or len({*map(tuple, ids)}) > 1:
      which = "tokenizer or chat template"
  if which:
    raise ConfigError(
      f"config.evaluate.teachers: {name} has another {which} than"
      f" config.teacher.path={config.teacher.path}, in whose server it would"
      " stand; evaluate it in a run of its own, as config.teacher.path"
    )
