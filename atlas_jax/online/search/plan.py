"""What a run takes at most, by closed formulas of its sizes; who may use it.

Calls of a part are problems x roles x samples, with E the roles that answer
anew under an evolved template (the first of config.search.evolve and all after
it), A all roles, and what is greedy never asked a second time:

  seed on validation   validation x A
  one round            minibatch x A + (minibatch + validation) x E,
                       and the reflection's attempts
  choosing             validation x fresh_samples x (A + best_of x E)
  test                 test x (A + E)

Retries come on top; where prompts come out equal, fewer are made. Tokens and
dollars are bounds: of a prompt every byte a token, of an answer max_tokens.

While the search goes on, the ledger keeps for choosing and the test the calls
of these formulas, and of every other cap what as many calls take, at the run's
mean so far. A round begins only where one fits beside that.
"""

import math
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from atlas_jax.data.splits import Splits
from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.calls import Request
from atlas_jax.online.calls.ledger import Amount, Caps, Ledger
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search import servers
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.files import SPEND, SearchOver
from atlas_jax.online.search.models import Models, chosen_problems, opened
from atlas_jax.online.search.reflection import prompt_chars
from atlas_jax.teaching.prompts import FIELDS
from atlas_jax.teaching.protocol import sampling

# Choosing meets longer prompts than the search did on average.
_MARGIN = 1.25


class BudgetTooSmall(AtlasError):
  """config.caps does not last for a result; the text says how much would."""


@dataclass(frozen=True)
class Budget:
  """What the caps of a run, which the ledger holds, leave for its search.

  seed, round and end (choosing and test): their calls at most, by role.
  """

  ledger: Ledger
  seed: Counter
  round: Counter
  end: Counter

  def check(self) -> None:
    """Raises BudgetTooSmall where the cap on calls allows no round."""
    limit = self.ledger.caps.calls
    need = (self.seed + self.round + self.end).total()
    if limit is not None and need > limit:
      raise BudgetTooSmall(
        f"config.caps.calls={limit:g} is too small for the seed, one round"
        f" and the choosing: they take at most {need:,}; raise it, or lower"
        " config.sizes"
      )

  def keep(self, used: Mapping[str, float] | None = None) -> None:
    """Keeps what choosing and the test take; the search has the rest.

    used: of the caps by now; None: nothing, so that the calls alone are known.
    """
    self.ledger.keep(Caps(**_takes(self.end, used)))

  def begin_round(self, used: Mapping[str, float]) -> None:
    """Keeps the share of the end anew.

    used: of the caps when the round began, maybe in an earlier process.

    Raises:
      SearchOver: the round does not fit beside that share.
    """
    self.keep(used)
    kept = _takes(self.end, used)
    for cap, need in _takes(self.round, used).items():
      limit = getattr(self.ledger.caps, cap)
      if limit is None:
        continue
      left = max(0, limit - used[cap] - kept[cap])
      if need > left:
        bound = "at most" if cap == "calls" else "about"
        raise SearchOver(
          f"config.caps.{cap} leaves {left:,.6g} for the search, and a round"
          f" takes {bound} {need:,.6g}"
        )


def budget_of(config: OnlineConfig, sets: Splits, ledger: Ledger) -> Budget:
  """The formulas of the module."""
  c, search = config.choosing, config.search
  everyone = [
    r for r in FIELDS if r != "student_probe" or not config.agent_mode
  ]
  first = min(map(everyone.index, search.evolve))
  anew = everyone[first:]
  sampled = [
    role
    for role in everyone
    if config.agent_mode
    or role in ("teacher", "student_taught")
    or sampling(config.episode, role)[1] > 0
  ]
  others = min(c.best_of, search.max_candidates - 1)
  validation, minibatch = len(sets.validation), config.sizes.minibatch
  fresh, test = validation * c.fresh_samples, len(sets.test)
  return Budget(
    ledger,
    seed=_calls(everyone, validation),
    round=_calls(everyone, minibatch)
    + _calls(anew, minibatch + validation)
    + _calls(["reflection"], config.reflection.attempts),
    end=_calls(sampled, fresh)
    + _calls([role for role in anew if role in sampled], fresh * others)
    + _calls(everyone, test)
    + _calls(anew, test),
  )


def _calls(roles: Sequence[str], each: int) -> Counter:
  return Counter(dict.fromkeys(roles, each))


def _takes(part: Counter, used: Mapping[str, float] | None) -> dict[str, float]:
  """Cap -> what a part takes of it, at the mean of the calls that were made."""
  calls = part.total()
  if not used or not used["calls"]:
    return {"calls": calls}
  mean = _MARGIN * calls / used["calls"]
  takes = {cap: mean * amount for cap, amount in used.items()}
  return takes | {"calls": calls}


def plan(config: OnlineConfig, environ: Mapping[str, str]) -> str:
  """What a run would take, as text; nothing is sent or written.

  Raises:
    BudgetTooSmall: config.caps.calls does not last for one round; the text
      holds the plan as well.
  """
  sets = chosen_problems(config)
  local = servers.local(config).items()
  # None of them is started.
  free = {role: servers.reached(m, "http://127.0.0.1") for role, m in local}
  config = replace(config, **free)
  with (
    Record() as record,
    opened(config, environ, record, pathlib.Path()) as models,
  ):
    budget = budget_of(config, sets, models.ledger)
    text = _plan_text(config, sets, budget, models)
  try:
    budget.check()
  except BudgetTooSmall as error:
    raise BudgetTooSmall(f"{error}\n{text}") from None
  return text


def _plan_text(config, sets, budget: Budget, models: Models) -> str:
  prices = dict.fromkeys(FIELDS, models.student.asker.price)
  prices["teacher"] = models.teacher.asker.price
  prices["reflection"] = models.reflection.price
  bounds = {r: _bound(config, sets, prices[r], r) for r in prices}

  def total(calls: Counter) -> dict[str, float]:
    each = [(n, bounds[role]) for role, n in calls.items()]
    return {cap: sum(n * getattr(b, cap) for n, b in each) for cap in SPEND}

  most, caps = config.search.max_rounds, vars(config.caps)
  rounds = Counter({role: most * n for role, n in budget.round.items()})
  rows = {
    "seed on validation": total(budget.seed),
    "one round": total(budget.round),
    f"{most} rounds": total(rounds),
    "choosing and test": total(budget.end),
    "whole run": total(budget.seed + rounds + budget.end),
  }
  lines = [
    f"{len(sets.train)} train, {len(sets.validation)} validation,"
    f" {len(sets.test)} test problems",
    _row("", *(f"{x}, at most" for x in SPEND)),
    *(
      _row(name, f"{x['calls']:,}", f"{x['tokens']:,}", f"{x['dollars']:,.4f}")
      for name, x in rows.items()
    ),
  ]
  if unpriced := sorted(r for r in prices if not prices[r].is_known):
    agent = ", and agent_dollars_per_call" if config.agent_mode else ""
    roles = ", ".join(unpriced)
    lines.append(f"unpriced: {roles}; say price_in and price_out{agent}")
  given = ", ".join(f"{x:g} {cap}" for cap, x in caps.items() if x is not None)
  enough, one, rest = [most], rows["one round"], total(budget.seed + budget.end)
  for cap in SPEND:
    if caps[cap] is not None and one[cap]:
      left = max(0, caps[cap] - rest[cap])
      enough.append(math.floor(left / one[cap]))
  return "\n".join(
    [
      *lines,
      f"caps: {given or 'none'}; retries come on top of the calls",
      f"enough for {min(enough)} of {most} rounds at the least",
    ]
  )


def _row(name: str, *cells: str) -> str:
  return f"{name:20}" + "".join(f"{cell:>18}" for cell in cells)


def _bound(config: OnlineConfig, sets: Splits, price, role: str) -> Amount:
  """The most that a call of a role takes."""
  e, r = config.episode, config.reflection
  if role == "reflection":
    read, said = prompt_chars(r, config.sizes.minibatch), r.max_tokens
  else:
    template = len(getattr(config.prompts, role).encode())
    if role in config.search.evolve:
      template = max(template, r.max_prompt_chars)
    questions = (*sets.train, *sets.validation, *sets.test)
    plan = min(e.max_probe_tokens, e.shown_probe_tokens)
    heard = {
      "teacher": config.agent_probe_chars if config.agent_mode else plan,
      "student_taught": e.max_teaching_tokens,
    }
    read = template + max(len(p.question.encode()) for p in questions)
    read, said = read + heard.get(role, 0), sampling(e, role)[0]
  return price.bound(Request(role, "x" * read, said))
