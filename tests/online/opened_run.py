"""The parts of a run in the small world, and what may answer it."""

import contextlib
import dataclasses

from atlas_jax.config import PromptsConfig
from atlas_jax.data.splits import Splits
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search import models
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.files import Journal
from atlas_jax.online.search.plan import Budget, budget_of
from atlas_jax.online.search.reflection import Reflector
from atlas_jax.online.search.rollouts import Rollouts, trial
from atlas_jax.online.search.scoring import KeptChecker
from tests.online import small_world
from tests.online.stub_server import StubServer


@dataclasses.dataclass
class Run:
  """As optimize() opens them."""

  config: OnlineConfig
  sets: Splits
  ledger: Ledger
  record: Record
  budget: Budget
  rollouts: Rollouts
  reflector: Reflector
  journal: Journal


@contextlib.contextmanager
def opened_with(config, workdir, path=None):
  sets = models.chosen_problems(config)
  with (
    Record(path) as record,
    models.opened(config, {}, record, workdir) as asked,
    KeptChecker(record, config.data) as checker,
  ):
    journal = Journal(workdir, record)
    yield Run(
      *(config, sets, asked.ledger, record),
      budget_of(config, sets, asked.ledger),
      Rollouts(asked, config, checker, journal),
      Reflector(asked, config, journal),
      journal,
    )


@contextlib.contextmanager
def opened(folder, url, *, path=None, **changes):
  """path: of its record; None: in memory."""
  config = small_world.config(folder, url, **changes)
  with opened_with(config, folder / "run", path) as run:
    yield run


@contextlib.contextmanager
def playing(folder, answer, **changes):
  """(run, stub): the parts of a run, and the server that answers it."""
  with (
    StubServer(answer) as stub,
    opened(folder, stub.url, **changes) as run,
  ):
    yield run, stub


def evaluated(run, problems, prompts=None, replicate=0, split="validation"):
  """The rollouts of some problems, under the seed prompts or others."""
  job = trial(prompts or run.config.prompts, problems, split, replicate)
  return run.rollouts.evaluate(job)


def better(run) -> PromptsConfig:
  return dataclasses.replace(run.config.prompts, teacher=small_world.GOOD)


def broken_for(question: str, start: str):
  """The scripted answers, but one role fails for one question."""
  from aiohttp import web

  def answer(messages):
    prompt = messages[0]["content"]
    if prompt.startswith(start) and question in prompt:
      return web.Response(status=500)
    return small_world.answer(messages)

  return answer
