"""An optimisation, from the config to the report, in one run directory.

  config.json        the whole config, all texts in it, no secret
  record.sqlite      every call; the same command goes on from it
  candidates.json, best_prompts.json     journal.py
  episodes/          episodes.py
  costs.json, report/                    report.py
  logs/              of servers that the run started

Whatever ends the run, what was paid for is in the record: the same command
starts the search again from its seed, the record answers what it knows, and
the result is that of a run that was never interrupted.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlas_jax import directory
from atlas_jax.config import to_dict
from atlas_jax.data import splits
from atlas_jax.data.problems import DataError, Problem, ProblemStream
from atlas_jax.online import choosing, live, local_servers, protocol, report
from atlas_jax.online.budget import Budget, Price, Sets
from atlas_jax.online.config import OnlineConfig
from atlas_jax.online.episodes import Episodes
from atlas_jax.online.journal import Journal
from atlas_jax.online.ledger import Ledger
from atlas_jax.online.models import open_model
from atlas_jax.online.record import Record
from atlas_jax.online.recorded_agent import open_recorded_agent
from atlas_jax.online.reflection import Memory, Reflector
from atlas_jax.online.replies import Agent, ChatModel
from atlas_jax.online.rollouts import Rollouts
from atlas_jax.online.search import Search
from atlas_jax.online.spend import Amount
from atlas_jax.reports import tables
from atlas_jax.serving.events import EventLoop
from atlas_jax.teaching.answers import AnswerChecker

log = logging.getLogger(__name__)

_PATIENCE = (
  *("concurrency", "timeout_s", "retries", "requests_per_minute"),
  *("tokens_per_minute", "api_key_env"),
)
# What may change between two starts of a run: none of it changes an answer.
# A cap that is raised lets a search go on that it has ended.
OPERATIONAL = (
  "prompts_path",  # its texts are in `prompts`
  *(f"caps.{cap}" for cap in ("calls", "tokens", "dollars", "minutes")),
  *(f"{role}.{key}" for role in local_servers.ROLES for key in _PATIENCE),
  *(f"agent.{key}" for key in ("concurrency", "timeout_s", "retries")),
  "servers.start_timeout_s",
  *(
    f"servers.{role}.{key}"
    for role in ("student", "teacher", "reflection")
    for key in ("url", "host", "port", "kv_cache_bytes", "cpu_cores")
  ),
)


class BudgetTooSmall(ValueError):
  """config.caps does not last for one round; the text says how much would."""


@dataclass(frozen=True)
class Models:
  """Who is asked. prices: role -> its price; None: unpriced."""

  student: Agent
  teacher: ChatModel
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
    problems, wanted = getattr(found, name), getattr(config.sizes, name)
    if not problems:
      raise DataError(
        f"the {name} split of config.data.source={config.data.source} is"
        f" empty; give config.data.{name}_path or more problems"
      )
    if len(problems) < wanted:
      log.warning(
        "config.sizes.%s=%d, the split has %d", name, wanted, len(problems)
      )
    stream = ProblemStream(problems, seed=config.seed)
    return tuple(stream.take(min(wanted, len(problems))))

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

  teacher, reflection = opened("teacher"), opened("reflection_model")
  if config.agent_mode:
    student = open_recorded_agent(
      config.agent,
      where="config.agent",
      environ=environ,
      ledger=ledger,
      record=record,
      dollars_per_call=config.agent_dollars_per_call,
    )
    dollars = config.agent_dollars_per_call
    of_student = None if dollars is None else Price(per_call=dollars)
  else:
    model = opened("student")
    student = protocol.ModelAgent(
      model, probe=config.probe, solution=config.solution
    )
    of_student = price(model)
  prices = {
    "student_baseline": of_student,
    "student_diagnostic": of_student,
    "student_with_teaching": of_student,
    "teacher_adaptive": price(teacher),
    "reflection": price(reflection),
  }
  return Models(student, teacher, reflection, prices)


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
    checker = stack.enter_context(AnswerChecker())
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


def plan(
  config: OnlineConfig, workdir: pathlib.Path, environ: Mapping[str, str]
) -> str:
  """What a run would take, as text; nothing is sent or written.

  Raises:
    BudgetTooSmall: config.caps does not last for one round; the text holds
      the plan as well.
  """
  sets = chosen_problems(config)
  free = _without_servers(config)
  with (
    Record() as record,
    opened(free, workdir, environ, sets, record, {}) as run,
  ):
    parts = run.budget.plan()
    small = run.budget.too_small()
    unpriced = sorted(
      role for role, price in run.budget.prices.items() if price is None
    )
  text = _plan_text(config, sets, parts, unpriced)
  if small is not None:
    raise BudgetTooSmall(f"{small}\n{text}")
  return text


def _without_servers(config: OnlineConfig) -> OnlineConfig:
  """The config with addresses for models that a run would serve itself."""
  changed = {
    role: dataclasses.replace(
      model, kind="url", url="http://127.0.0.1", price_in=0.0, price_out=0.0
    )
    for role, model in local_servers.local(config).items()
  }
  return dataclasses.replace(config, **changed)


def _plan_text(
  config: OnlineConfig,
  sets: Sets,
  parts: Mapping[str, Amount],
  unpriced: Sequence[str],
) -> str:
  whole = sum(
    (amount for name, amount in parts.items() if name != "one round"),
    Amount(),
  )
  rows = {**parts, "at most": whole}
  lines = [
    f"{len(sets.train)} train, {len(sets.validation)} validation,"
    f" {len(sets.test)} test problems",
    f"{'':24}{'calls':>12}{'tokens up to':>16}{'dollars up to':>16}",
  ]
  for name, amount in rows.items():
    lines.append(
      f"{name:24}{amount.calls:>12,}{amount.tokens:>16,}"
      f"{amount.dollars:>16,.4f}"
    )
  if unpriced:
    lines.append(f"unpriced: {', '.join(unpriced)}; say price_in and price_out")
  caps = {
    name: value
    for name, value in dataclasses.asdict(config.caps).items()
    if value is not None
  }
  said = ", ".join(f"{value:g} {name}" for name, value in caps.items())
  lines.append(f"caps: {said or 'none'}; retries come on top of the calls")
  return "\n".join(lines)


def optimize(
  config: OnlineConfig, workdir: pathlib.Path, environ: Mapping[str, str]
) -> None:
  """Runs, or goes on with, the optimisation in `workdir`.

  Raises:
    RunError: the directory is in use or of another run.
    DataError, ConfigError, ServerError, ModelRefused: what it says.
    BudgetTooSmall: the cap on calls does not last for one round.
    RolloutError, SearchFailed, ChoosingError: nothing is lost; see the text.
    KeyboardInterrupt: files are written; the same command goes on.
  """
  with contextlib.ExitStack() as stack:
    stack.enter_context(directory.lock(workdir))
    sets = chosen_problems(config)
    directory.claim(workdir, to_dict(config), OPERATIONAL)
    finished = workdir / "report" / "optimize.json"
    if finished.exists():
      log.info("this run is finished; another one needs another --workdir")
      _show(json.loads(finished.read_text(encoding="utf-8")), workdir)
      return
    record = stack.enter_context(Record(workdir / "record.sqlite"))
    stack.callback(
      lambda: directory.write_json(workdir / "costs.json", record.costs())
    )
    reachable, environ = stack.enter_context(
      local_servers.served(config, workdir, environ)
    )
    endpoints = local_servers.endpoints(config)
    run = stack.enter_context(
      opened(reachable, workdir, environ, sets, record, endpoints)
    )
    _check_budget(run)
    with live.shown(run.line, sys.stderr):
      _work(run)
  _show(json.loads(finished.read_text(encoding="utf-8")), workdir)


def _check_budget(run: Run) -> None:
  small = run.budget.too_small()
  if small is None:
    return
  if small.startswith("config.caps.calls"):
    raise BudgetTooSmall(small)
  # Tokens and dollars are estimates from above: the run may do with less.
  log.warning("%s", small)


def _work(run: Run) -> None:
  search = Search(
    run.config,
    run.rollouts,
    run.reflector,
    run.budget,
    run.journal,
    on_accepted=lambda: log.info("%s", run.line()),
  )
  ended = search.run()
  log.info("the search ended: %s", ended)
  if not run.journal.candidates:
    raise BudgetTooSmall(
      f"the seed could not be evaluated: {ended}; raise config.caps"
    )
  run.stage = "choosing"
  run.budget.free()
  choice = choosing.choose(run.config, run.rollouts, run.budget, run.journal)
  kept = choice.kept
  run.journal.write_best(
    kept,
    {
      "stage": "chosen",
      "score": kept.score,
      "calls": kept.calls,
      "tokens": kept.tokens,
      "dollars": kept.dollars,
      "choice": report.facts(choice),
    },
  )
  report.write(
    run.workdir, choice, run.journal.candidates, ended, run.record.costs()
  )


def _show(facts: Mapping, workdir: pathlib.Path) -> None:
  tables.show(facts["evaluation"], sys.stdout)
  kept = "the seed" if facts["kept"] == 0 else f"candidate {facts['kept']}"
  print(f"kept: {kept}", *facts["reasons"], sep="\n  ")
  print(f"prompts: {workdir / 'best_prompts.json'}")
  print(f"report: {workdir / 'report' / 'optimize.md'}", flush=True)
