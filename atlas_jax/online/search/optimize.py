"""An optimisation, from the config to the report, in one run directory.

  config.json        the whole config, all texts in it, no secret
  record.sqlite      every call and what was decided; the same command goes on
                     from it
  candidates.json, best_prompts.json, episodes/     files.py
  costs.json, report/                               report.py
  logs/              of servers that the run started

Whatever ends the run, what was paid for is in the record: the same command
starts the search again from its seed, the record answers what it knows, and
the result is that of a run that was never interrupted.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
import sys
from collections.abc import Mapping, Sequence

from atlas_jax import directory, files, progress
from atlas_jax.data.problems import Problem
from atlas_jax.data.splits import Splits
from atlas_jax.online.calls.ledger import Caps
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search import choosing, comparing, models, report
from atlas_jax.online.search.config import ROLES, OnlineConfig
from atlas_jax.online.search.files import Journal
from atlas_jax.online.search.plan import budget_of
from atlas_jax.online.search.reflection import Reflector
from atlas_jax.online.search.rollouts import Rollouts
from atlas_jax.online.search.scoring import KeptChecker
from atlas_jax.online.search.search import Search
from atlas_jax.reports import reading, tables

log = logging.getLogger(__name__)

_PATIENCE = (
  *("concurrency", "timeout_s", "retries", "requests_per_minute"),
  "max_response_bytes",
  "api_key_env",
)
# What may change between two starts of a run: none of it changes an answer.
# A cap that is raised lets a search go on, until it has ended once.
OPERATIONAL = (
  "prompts_path",  # its texts are in `prompts`
  # Of training: nothing here reads them.
  *(f"data.{key}" for key in ("sft_source", "sft_path", "sft_params")),
  *("data.own_deadline_s", "data.own_processes"),
  *(f"caps.{cap}" for cap in ("calls", "tokens", "dollars", "minutes")),
  *(f"{role}.{key}" for role in (*ROLES, "agent") for key in _PATIENCE),
  "servers.start_timeout_s",
  *(
    f"servers.{role}.{key}"
    for role in ("student", "teacher", "reflection")
    for key in directory.OF_SERVERS
  ),
)


def optimize(
  config: OnlineConfig,
  workdir: pathlib.Path,
  environ: Mapping[str, str],
  server_key: str | None = None,
) -> None:
  """Runs, or goes on with, the optimisation in `workdir`.

  Args:
    config, workdir: of the run.
    environ: environment variables, for keys.
    server_key: the bearer token of servers that config.servers gives as URLs.

  Raises:
    RunError: the directory is in use or of another run, or its problems were
      others.
    DataError, ConfigError, ServerError, ModelRefused: what it says.
    BudgetTooSmall: the caps do not last for one round.
    RolloutError, SearchFailed, BudgetSpent: nothing is lost; see the text.
    KeyboardInterrupt: files are written; the same command goes on.
  """
  with contextlib.ExitStack() as stack:
    stack.enter_context(directory.lock(workdir))
    sets = models.chosen_problems(config)
    directory.claim(workdir, dataclasses.asdict(config), OPERATIONAL)
    stack.enter_context(directory.logging_to(workdir))
    finished = workdir / "report" / "optimize.json"
    if finished.exists():
      log.info("this run is finished; another one needs another --workdir")
      _show(files.read_json(finished), workdir)
      return
    record = stack.enter_context(Record(workdir / "record.sqlite"))
    _check_problems(sets, record, workdir)
    journal = Journal(workdir, record)
    stack.callback(journal.write_costs)
    asked = stack.enter_context(
      models.opened(config, environ, record, workdir, server_key)
    )
    budget = budget_of(config, sets, asked.ledger)
    if record.read("ended") is None:
      budget.check()
    checker = stack.enter_context(KeptChecker(record, config.data))
    rollouts = Rollouts(asked, config, checker, journal)
    reflector = Reflector(asked, config, journal)
    search = Search(sets, rollouts, reflector, budget)
    with progress.shown(lambda: journal.line(asked.ledger)):
      ended = search.run()
      journal.stage = "choosing"
      asked.ledger.keep(Caps())
      fresh, dropped = choosing.score_again(rollouts, sets)
      best = choosing.pick(fresh, config.choosing.non_degradation_floor)
      test = comparing.compare(rollouts, sets, best.candidate)
      choice = choosing.decide(config, fresh, dropped, best, *test)
      report.write(journal, choice, ended)
  _show(files.read_json(finished), workdir)


def _check_problems(
  sets: Splits, record: Record, workdir: pathlib.Path
) -> None:
  """Raises RunError unless a run goes on with the problems it began with."""
  now = {
    name: hashlib.sha256(_text_of(problems).encode()).hexdigest()
    for name, problems in vars(sets).items()
  }
  before = record.read("problems")
  if before is None:
    record.commit("problems", now)
  elif now != before:
    changed = ", ".join(name for name in now if now[name] != before[name])
    raise directory.RunError(
      f"the problems of config.data are not those that {workdir} began with"
      f" (in {changed}); restore them or choose another --workdir"
    )


def _text_of(problems: Sequence[Problem]) -> str:
  """All that is known of them; of what JSON lacks, its type."""
  return json.dumps(
    [list(vars(p).values()) for p in problems],
    skipkeys=True,
    default=lambda value: type(value).__name__,
  )


def _show(facts: Mapping, workdir: pathlib.Path) -> None:
  tables.show(facts["evaluation"], sys.stdout)
  print(reading.decision(facts))
  print(directory.results(workdir), flush=True)
