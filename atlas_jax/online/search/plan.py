"""What a run would take, told before anything is sent."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.record import Record
from atlas_jax.online.calls.spend import Amount
from atlas_jax.online.search import local_servers
from atlas_jax.online.search.budget import Sets
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.opening import chosen_problems, opened


class BudgetTooSmall(AtlasError):
  """config.caps does not last for a result; the text says how much would."""


def plan(
  config: OnlineConfig, workdir: pathlib.Path, environ: Mapping[str, str]
) -> str:
  """What a run would take, as text; nothing is sent or written.

  Raises:
    BudgetTooSmall: config.caps.calls does not last for one round; the text
      holds the plan as well.
  """
  sets = chosen_problems(config)
  free = _without_servers(config)
  with (
    Record() as record,
    opened(free, workdir, environ, sets, record, {}) as run,
  ):
    parts = run.budget.plan()
    small, rounds = run.budget.too_small(), run.budget.rounds()
    unpriced = sorted(
      role for role, price in run.budget.prices.items() if price is None
    )
  text = _plan_text(config, sets, parts, unpriced, rounds)
  if small is None:
    return text
  # As a run does: tokens and dollars are estimates.
  if small.startswith("config.caps.calls"):
    raise BudgetTooSmall(f"{small}\n{text}")
  return f"{text}\nwarning: {small}"


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
  rounds: int,
) -> str:
  whole = sum(
    (amount for name, amount in parts.items() if name != "one round"),
    Amount(),
  )
  rows = {**parts, "whole run": whole}
  lines = [
    f"{len(sets.train)} train, {len(sets.validation)} validation,"
    f" {len(sets.test)} test problems",
    f"{'':24}{'calls, at most':>16}{'tokens, about':>16}{'dollars, about':>16}",
  ]
  for name, amount in rows.items():
    lines.append(
      f"{name:24}{amount.calls:>16,}{amount.tokens:>16,}"
      f"{amount.dollars:>16,.4f}"
    )
  if unpriced:
    agent = ", and agent_dollars_per_call" if config.agent_mode else ""
    lines.append(
      f"unpriced: {', '.join(unpriced)}; say price_in and price_out{agent}"
    )
  caps = {
    name: value
    for name, value in dataclasses.asdict(config.caps).items()
    if value is not None
  }
  said = ", ".join(f"{value:g} {name}" for name, value in caps.items())
  lines.append(f"caps: {said or 'none'}; retries come on top of the calls")
  most = config.search.max_rounds
  lines.append(f"enough for about {rounds} of {most} rounds")
  return "\n".join(lines)
