"""Teachers, prompts and students that an evaluation has beside the run's own.

  config.evaluate.teachers   run directories, whose teachers are as they were
                             trained last and have the prompts of their runs;
                             or models, with the prompts of this run
  config.evaluate.prompts    files such as best_prompts.json, for this run's
                             teacher
  config.evaluate.students   models that are taught, one after the other

All are read and checked here before anything starts; of weights, whether a
student that gets a server here has any.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

from atlas_jax import directory, files, hub, multihost
from atlas_jax.config import ConfigError, LoraConfig, PromptsConfig, RunConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.errors import AtlasError
from atlas_jax.model import decoder
from atlas_jax.phases.entry import PhaseEntry, newest
from atlas_jax.phases.servers import AGREEMENT_TEXT, Student
from atlas_jax.phases.teacher import Teacher
from atlas_jax.teaching.prompts import Prompts, load_prompts

# Weights of guests have versions that the run's own never reach.
_FIRST_VERSION = 1_000_000


class Guest(Teacher):
  """A teacher whose weights are read each time that they are asked for.

  Attributes:
    trained: (phase, step) of the checkpoint; None: as its directory has them.
  """

  trained: tuple[PhaseEntry, int] | None = None

  @property
  def model(self) -> decoder.Decoder:
    if self._model is None and self.trained is not None:
      entry, step = self.trained
      self._model = entry.trained(self, step)[1]
    return super().model


@dataclass(frozen=True)
class Guests:
  """By their names in the config; teachers with their prompts."""

  teachers: tuple[tuple[str, Guest, Prompts], ...] = ()
  prompts: tuple[tuple[str, Prompts], ...] = ()
  students: tuple[Student, ...] = ()


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

  with _named("teachers"):
    teachers = []
    for number, name in enumerate(c.teachers):
      guest, templates = _teacher(number, name, config, own)
      teachers.append((name, guest, parsed(templates)))
  with _named("prompts"):
    words = [(name, parsed(load_prompts(name))) for name in c.prompts]
  urls = [(url,) for url in c.student_urls] or [()] * len(c.students)
  with _named("students"):
    students = [
      Student.of(name, config, at, name)
      for name, at in zip(c.students, urls, strict=True)
    ]
  return Guests(tuple(teachers), tuple(words), tuple(students))


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
  """An error inside names the key of the config that invites the guest."""
  try:
    yield
  except multihost.LeadError:
    raise  # of the lead, which says it
  except AtlasError as error:
    raise ConfigError(f"config.evaluate.{key}: {error}") from error


def _teacher(
  number: int, name: str, config: RunConfig, own: Teacher
) -> tuple[Guest, PromptsConfig]:
  """The guest of this number, and the templates that it comes with."""
  path, run = hub.directory(name, "model"), config
  last = None
  if multihost.call_on_lead(lambda: _is_run(path)):
    run = directory.read_config(path)
    last = newest(path, run)
    options, model = run.teacher, hub.directory(run.teacher.path, "model")
  else:
    plain = {"random_init": False, "lora": LoraConfig()}
    options, model = dataclasses.replace(own.options, path=name, **plain), path
  guest = Guest(options, model, own.chat, run.seed)
  guest.version, guest.trained = _FIRST_VERSION + number, last
  _check(name, guest, own, config)
  return guest, run.prompts


def _is_run(path: pathlib.Path) -> bool:
  file = path / "config.json"
  return file.exists() and "phases" in files.read_json(file)


def _check(name: str, guest: Guest, own: Teacher, config: RunConfig) -> None:
  """One server has the teachers in turn: all but their weights is the same."""
  which = ""
  if guest.decoder_config != own.decoder_config:
    which = "architecture"
  elif guest.directory != own.directory:
    day = config.template_date
    one, two = own.chat, ChatTokenizer.from_dir(guest.directory, day)
    ids = (chat.prompt_ids(AGREEMENT_TEXT) for chat in (one, two))
    if one.vocab_size != two.vocab_size or len({*map(tuple, ids)}) > 1:
      which = "tokenizer or chat template"
  if which:
    raise ConfigError(
      f"{name} has another {which} than"
      f" config.teacher.path={config.teacher.path}, in whose server it would"
      " stand; evaluate it in a run of its own, as config.teacher.path"
    )
