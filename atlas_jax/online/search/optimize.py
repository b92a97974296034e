"""An optimisation, from the config to the report, in one run directory.

  config.json        the whole config, all texts in it, no secret
  record.sqlite      every call and verdict; the same command goes on from it
  candidates.json, best_prompts.json     journal.py
  episodes/          episodes.py
  costs.json, report/                    report.py
  logs/              of servers that the run started

Whatever ends the run, what was paid for is in the record: the same command
starts the search again from its seed, the record answers what it knows, and
the result is that of a run that was never interrupted.
"""

import contextlib
import hashlib
import json
import logging
import pathlib
import sys
from collections.abc import Mapping, Sequence

from atlas_jax import directory, files, progress
from atlas_jax.config import to_dict
from atlas_jax.data.problems import Problem
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search import choosing, local_servers, report
from atlas_jax.online.search.budget import Sets
from atlas_jax.online.search.comparing import ChoosingError
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.opening import Run, chosen_problems, opened
from atlas_jax.online.search.plan import BudgetTooSmall
from atlas_jax.online.search.rollouts import RolloutError
from atlas_jax.online.search.search import Search, SearchFailed
from atlas_jax.reports import tables
from atlas_jax.teaching.statistics import Interval

log = logging.getLogger(__name__)

_PATIENCE = (
  *("concurrency", "timeout_s", "retries", "requests_per_minute"),
  "max_response_bytes",
  *("tokens_per_minute", "api_key_env"),
)
# What may change between two starts of a run: none of it changes an answer.
# A cap that is raised lets a search go on, until it has ended once.
OPERATIONAL = (
  "prompts_path",  # its texts are in `prompts`
  # Of training: nothing here reads them.
  *(f"data.{key}" for key in ("sft_source", "sft_path", "sft_params")),
  *("data.own_deadline_s", "data.own_processes"),
  *(f"caps.{cap}" for cap in ("calls", "tokens", "dollars", "minutes")),
  *(f"{role}.{key}" for role in local_servers.ROLES for key in _PATIENCE),
  *(f"agent.{key}" for key in ("concurrency", "timeout_s", "retries")),
  "agent.max_response_bytes",
  "servers.start_timeout_s",
  *(
    f"servers.{role}.{key}"
    for role in ("student", "teacher", "reflection")
    for key in ("url", "host", "port", "kv_cache_bytes", "cpu_cores")
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
    BudgetTooSmall: the cap on calls does not last for one round.
    RolloutError, SearchFailed, ChoosingError: nothing is lost; see the text.
    KeyboardInterrupt: files are written; the same command goes on.
  """
  with contextlib.ExitStack() as stack:
    stack.enter_context(directory.lock(workdir))
    sets = chosen_problems(config)
    directory.claim(workdir, to_dict(config), OPERATIONAL)
    stack.enter_context(directory.logging_to(workdir))
    finished = workdir / "report" / "optimize.json"
    if finished.exists():
      log.info("this run is finished; another one needs another --workdir")
      _show(files.read_json(finished), workdir)
      return
    record = stack.enter_context(Record(workdir / "record.sqlite"))
    _same_problems(sets, record, workdir)
    stack.callback(_write_costs, record, workdir)
    reachable, environ = stack.enter_context(
      local_servers.served(config, workdir, environ, server_key)
    )
    endpoints = local_servers.endpoints(config)
    run = stack.enter_context(
      opened(reachable, workdir, environ, sets, record, endpoints)
    )
    _check_budget(run)
    with progress.shown(run.line), _forgetting(record):
      _work(run)
  _show(files.read_json(finished), workdir)


@contextlib.contextmanager
def _forgetting(record: Record):
  """A run that stops because of failures tries them again when it goes on."""
  try:
    yield
  except SearchFailed:
    record.failures.forget_reflection()
    raise
  except (RolloutError, ChoosingError):
    record.forget_evaluation()
    raise


def _same_problems(sets: Sets, record: Record, workdir: pathlib.Path) -> None:
  """A run goes on with the problems that it began with."""
  now = {
    name: hashlib.sha256(_text_of(problems).encode()).hexdigest()
    for name, problems in vars(sets).items()
  }
  before = record.notes.read("problems")
  if before is None:
    record.notes.write("problems", now)
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


def _write_costs(record: Record, workdir: pathlib.Path) -> None:
  directory.write_json(workdir / "costs.json", record.costs())


def _check_budget(run: Run) -> None:
  if run.record.notes.read("ended") is not None:
    return  # what is left is the choosing, which the ledger holds to the caps
  small = run.budget.too_small()
  if small is None:
    return
  if small.startswith("config.caps.calls"):
    raise BudgetTooSmall(small)
  # Tokens and dollars are estimates from above: the run may do with less.
  log.warning("%s", small)


def _work(run: Run) -> None:
  def on_accepted():
    _write_costs(run.record, run.workdir)
    log.info("%s", run.line())

  search = Search(
    run.config,
    run.rollouts,
    run.reflector,
    run.budget,
    run.journal,
    run.record.notes,
    on_accepted,
  )
  ended = search.run()
  log.info("the search ended: %s", ended)
  run.record.evaluation_begins()  # what the search met is history
  if not run.journal.candidates:
    raise BudgetTooSmall(
      f"the seed could not be evaluated: {ended}; raise config.caps"
    )
  run.journal.write(all_known=True)
  run.stage = "choosing"
  run.budget.free()
  choice = choosing.choose(run.config, run.rollouts, run.budget, run.journal)
  run.journal.write_best(
    choice.kept, stage="chosen", choice=report.facts(choice)
  )
  report.write(
    run.workdir, choice, run.journal.candidates, ended, run.record.costs()
  )


def _show(facts: Mapping, workdir: pathlib.Path) -> None:
  tables.show(facts["evaluation"], sys.stdout)
  kept = "the seed" if facts["kept"] == 0 else f"candidate {facts['kept']}"
  print(f"kept: {kept}", *facts["reasons"], sep="\n  ")
  if facts["harm"] is not None:
    print(report.harm_text(Interval(**facts["harm"])))
  print(directory.results(workdir), flush=True)
