"""The parts of an optimisation, opened together and closed at the end."""

import contextlib
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

from atlas_jax.data import splits
from atlas_jax.data.problems import Problem
from atlas_jax.online.agents.recorded_agent import open_recorded_agent
from atlas_jax.online.calls.calls import ChatModel
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.models import open_model
from atlas_jax.online.calls.record import Record
from atlas_jax.online.calls.speakers import AgentSpeaker, ModelSpeaker
from atlas_jax.online.calls.verdicts import RecordedChecker
from atlas_jax.online.search import live
from atlas_jax.online.search.budget import Budget, Price, Sets
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.episodes import Episodes
from atlas_jax.online.search.journal import Journal
from atlas_jax.online.search.reflection import Memory, Reflector
from atlas_jax.online.search.rollouts import Rollouts
from atlas_jax.serving.events import EventLoop


@dataclass(frozen=True)
class Models:
  """Who is asked. prices: role -> its price; None: unpriced."""

  student: AgentSpeaker | ModelSpeaker
  teacher: ModelSpeaker
  reflection: ChatModel
  prices: Mapping[str, Price | None]

  async def aclose(self) -> None:
    for model in (self.student, self.teacher, self.reflection):
      await model.aclose()


def chosen_problems(config: OnlineConfig) -> Sets:
  """The problems of each split, config.sizes of them at most.

  Raises:
    DataError: a split is empty, or the data cannot be read.
  """
  found = splits.load(config.data)

  def take(name: str) -> tuple[Problem, ...]:
    wanted = getattr(config.sizes, name)
    source = config.data.source
    return tuple(
      splits.sample(found, name, wanted, source=source, seed=config.seed)
    )

  return Sets(take("train"), take("validation"), take("test"))


def open_models(
  config: OnlineConfig,
  environ: Mapping[str, str],
  ledger: Ledger,
  record: Record,
  endpoints: Mapping[str, str],
) -> Models:
  """Opens what config names; nothing is sent.

  Args:
    config, environ, ledger, record: of the run.
    endpoints: role -> what the record calls its server, where that is not
      the address.

  Raises:
    ConfigError: a value is wrong or a variable is missing.
  """

  def opened(key: str) -> ChatModel:
    return open_model(
      getattr(config, key),
      where=f"config.{key}",
      environ=environ,
      ledger=ledger,
      record=record,
      endpoint=endpoints.get(key),
    )

  def price(model) -> Price | None:
    per_million = model.price.per_million
    return None if per_million is None else Price(per_million)

  kwargs = config.episode.chat_template_kwargs
  teacher, reflection = opened("teacher"), opened("reflection_model")
  if config.agent_mode:
    student = AgentSpeaker(
      open_recorded_agent(
        config.agent,
        where="config.agent",
        environ=environ,
        ledger=ledger,
        record=record,
        dollars_per_call=config.agent_dollars_per_call,
      )
    )
    dollars = config.agent_dollars_per_call
    of_student = None if dollars is None else Price(per_call=dollars)
  else:
    model = opened("student")
    student = ModelSpeaker(model, kwargs)
    of_student = price(model)
  prices = {
    "student_baseline": of_student,
    "student_probe": of_student,
    "student_taught": of_student,
    "teacher": price(teacher),
    "reflection": price(reflection),
  }
  return Models(student, ModelSpeaker(teacher, kwargs), reflection, prices)


@dataclass
class Run:
  """The parts of a run, opened; see `opened`."""

  config: OnlineConfig
  workdir: pathlib.Path
  loop: EventLoop
  ledger: Ledger
  record: Record
  rollouts: Rollouts
  reflector: Reflector
  budget: Budget
  journal: Journal
  stage: str = "search"

  def line(self) -> str:
    """The live line."""

    async def snapshot():
      return self.ledger.snapshot()

    best = self.journal.best(1)
    return live.line(
      self.stage,
      best[0].score if best else None,
      len(self.journal.candidates),
      self.loop.run(snapshot()),
    )


@contextlib.contextmanager
def opened(
  config: OnlineConfig,
  workdir: pathlib.Path,
  environ: Mapping[str, str],
  sets: Sets,
  record: Record,
  endpoints: Mapping[str, str],
):
  """A Run, closed at the end; see open_models."""
  ledger = record.ledger(config.caps)
  with contextlib.ExitStack() as stack:
    checker = stack.enter_context(
      RecordedChecker(record.verdicts, data=config.data)
    )
    loop = EventLoop()
    stack.callback(loop.close)
    models = open_models(config, environ, ledger, record, endpoints)
    stack.callback(lambda: loop.run(models.aclose()))
    rollouts = Rollouts(
      models.student,
      models.teacher,
      config,
      loop,
      checker,
      record.evaluation_begins,
      Episodes(workdir).write,
    )
    yield Run(
      config=config,
      workdir=workdir,
      loop=loop,
      ledger=ledger,
      record=record,
      rollouts=rollouts,
      reflector=Reflector(
        models.reflection,
        config.reflection,
        config.prompts,
        config.seed,
        loop,
        Memory(),
      ),
      budget=Budget(config, sets, rollouts, ledger, models.prices),
      journal=Journal(workdir),
    )
