"""How many calls, tokens and dollars the parts of a run take, beforehand.

Calls are those at most, but for retries, which come on top: where two prompts
come out equal (two candidates that get the same teaching), or the reflection
model's first proposal is of use, fewer are made. Tokens and dollars are
estimates: UTF-8 bytes of the prompts over `_BYTES_PER_TOKEN` and the whole of
max_tokens, until a role has answered `_MEASURED` times; from then on its mean
cost an answer with a margin, where that is less.

What choosing and the test split will take is set aside in the ledger, so that
the search cannot use it. A round begins only where the whole of it fits.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from atlas_jax.config import PromptsConfig
from atlas_jax.data.problems import Problem
from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.spend import Amount, Caps, picodollars
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.reflection import prompt_chars
from atlas_jax.online.search.rollouts import Job, Rollouts
from atlas_jax.teaching.protocol import sampling

_BYTES_PER_TOKEN = 3.5
_CHAT_TOKENS = 16  # what a chat template adds
_MEASURED = 20
_MARGIN = 1.25


class SearchOver(AtlasError):
  """The search ends, with what it has; the text says why."""


@dataclass(frozen=True)
class Price:
  """Dollars: a million (prompt, completion) tokens, and a call."""

  per_million: tuple[float, float] = (0.0, 0.0)
  per_call: float = 0.0

  def pico(self, calls: int, tokens_in: int, tokens_out: int) -> int:
    """Picodollars of so many calls and tokens."""
    a, b = self.per_million
    dollars = (tokens_in * a + tokens_out * b) / 1e6 + calls * self.per_call
    return picodollars(dollars)


@dataclass(frozen=True)
class Sets:
  """The problems of a run, by what they are for."""

  train: tuple[Problem, ...]
  validation: tuple[Problem, ...]
  test: tuple[Problem, ...]


def choosing_jobs(
  prompts: Sequence[PromptsConfig], sets: Sets, fresh_samples: int
) -> list[Job]:
  """Fresh samples of the validation problems, for each set of prompts."""
  return [
    Job(p, sets.validation, "validation", replicate)
    for p in prompts
    for replicate in range(1, fresh_samples + 1)
  ]


def test_jobs(prompts: Sequence[PromptsConfig], sets: Sets) -> list[Job]:
  return [Job(p, sets.test, "test") for p in prompts]


@dataclass
class Budget:
  """Estimates, and what is set aside.

  Args:
    config, sets: of the run.
    rollouts: knows what was asked already.
    ledger: holds the caps.
    prices: role -> the price of its model; None: unpriced.
  """

  config: OnlineConfig
  sets: Sets
  rollouts: Rollouts
  ledger: Ledger
  prices: Mapping[str, Price | None]

  def evaluation(
    self, jobs: Sequence[Job], after: Sequence[Job] = ()
  ) -> Amount:
    """What jobs take from here on, or when those of `after` are done."""
    before = len(self.rollouts.calls_needed(after))
    return self._cost(self.rollouts.calls_needed([*after, *jobs])[before:])

  def first(self) -> Amount:
    """The seed on the validation problems."""
    return self.evaluation(self._first_jobs())

  def round(self) -> Amount:
    """One round whose child is accepted: calls at most.

    Neither its parent nor its child has met a problem of its minibatch.
    """
    seed, child = self.config.prompts, self._child()
    longest = sorted(self.sets.train, key=lambda p: -len(p.question.encode()))
    minibatch = longest[: self.config.sizes.minibatch]
    calls = self.rollouts.calls_needed(
      [Job(seed, minibatch, "train"), Job(child, minibatch, "train")],
      asked_before=False,
    )
    # Counted after the first evaluation, whose unaided solutions are kept; when
    # it is over, those that failed are asked for again.
    first = self._first_jobs()
    over = any(map(self.rollouts.known, first))
    accepted = self.evaluation(
      [Job(child, self.sets.validation, "validation")], () if over else first
    )
    return self._cost(calls) + accepted + self.reflection()

  def reflection(self) -> Amount:
    """The reflection calls of a round, every proposal but the last refused."""
    c, search = self.config.reflection, self.config.search
    templates = 1 if search.update == "round_robin" else len(search.evolve)
    chars = prompt_chars(c, self.config.sizes.minibatch)
    return self._cost([("reflection", chars)] * templates * c.attempts)

  def aside(self, prompts: Sequence[PromptsConfig]) -> Amount:
    """Choosing among `prompts`, and the test.

    The seed comes first in `prompts`. It meets the test split beside the one
    of the others that takes most.
    """
    seed, *others = prompts
    c = self.config.choosing
    fresh = choosing_jobs(prompts, self.sets, c.fresh_samples)
    return max(
      (
        self.evaluation(
          fresh + test_jobs([seed, other], self.sets), self._first_jobs()
        )
        for other in others or [self._child()]
      ),
      key=lambda need: (need.calls, need.tokens),
    )

  def plan(self) -> dict[str, Amount]:
    """The parts of the whole run: calls at most, tokens and dollars about."""
    one, rounds = self.round(), self.config.search.max_rounds
    return {
      "seed on validation": self.first(),
      "one round": one,
      f"{rounds} rounds": Amount(
        rounds * one.calls, rounds * one.tokens, rounds * one.pico
      ),
      "choosing and test": self.aside(self._most()),
    }

  def too_small(self) -> str | None:
    """Why the caps do not last for the seed, one round and the choosing."""
    parts = self.plan()
    need = parts["seed on validation"] + parts["one round"]
    need += parts["choosing and test"]
    caps = self.config.caps
    for cap, needed in (
      ("calls", need.calls),
      ("tokens", need.tokens),
      ("dollars", need.dollars),
    ):
      limit = getattr(caps, cap)
      if limit is not None and needed > limit:
        return (
          f"config.caps.{cap}={limit:g} is too small for the seed, one round"
          f" and the choosing: they take {_bound(cap)} {needed:,.6g}; raise it,"
          " or lower config.sizes"
        )
    return None

  def rounds(self) -> int:
    """Rounds that the caps on calls, tokens and dollars last for, beside the
    seed and the choosing: as many as config allows, or fewer."""
    parts, caps = self.plan(), self.config.caps
    need = parts["seed on validation"] + parts["choosing and test"]
    one, most = parts["one round"], self.config.search.max_rounds
    for cap in ("calls", "tokens", "dollars"):
      limit, each = getattr(caps, cap), getattr(one, cap)
      left = None if limit is None else limit - getattr(need, cap)
      if left is not None and each > 0:
        most = min(most, math.floor(left / each))
    return max(0, most)

  def hold(self, prompts: Sequence[PromptsConfig]) -> None:
    """Sets aside what choosing among `prompts` will take.

    Tokens and dollars only after something was measured: before, the bound
    could keep a run from starting that has enough.
    """
    keep = self.aside([*prompts, *self._most()[len(prompts) :]])
    # Those who come later may take more calls than those who are there.
    plan = self.plan()
    calls = plan["choosing and test"].calls
    lines = self.ledger.snapshot().lines
    measured = sum(x.answered_calls for x in lines) >= _MEASURED
    whole = sum(
      (part.calls for name, part in plan.items() if name != "one round"), 0
    )
    minutes = self.config.caps.minutes
    self.ledger.set_aside(
      Caps(
        calls=calls,
        tokens=keep.tokens if measured else None,
        dollars=keep.dollars if measured else None,
        minutes=None if minutes is None else minutes * calls / whole,
      )
    )

  def free(self) -> None:
    """What was set aside may be used."""
    self.ledger.set_aside(Caps())

  def check(self, need: Amount, what: str) -> None:
    """Raises SearchOver where the room is less than `need`."""
    room = self.ledger.room()
    for cap, needed in (
      ("calls", need.calls),
      ("tokens", need.tokens),
      ("dollars", need.dollars),
    ):
      left = getattr(room, cap)
      if left is not None and needed > left:
        raise SearchOver(
          f"config.caps.{cap} leaves {left:,.6g} for the search, and {what}"
          f" takes {_bound(cap)} {needed:,.6g}"
        )
    if room.seconds is not None and room.seconds <= 0:
      raise SearchOver("the part of config.caps.minutes for the search is over")

  def _first_jobs(self) -> list[Job]:
    return [Job(self.config.prompts, self.sets.validation, "validation")]

  def _child(self, number: int = 0) -> PromptsConfig:
    """Prompts that differ from all others in every evolved template."""
    texts = {
      name: f"{getattr(self.config.prompts, name)}\n{number}"
      for name in self.config.search.evolve
    }
    return dataclasses.replace(self.config.prompts, **texts)

  def _most(self) -> list[PromptsConfig]:
    """As many different prompts as choosing may meet, the seed among them."""
    best_of = min(
      self.config.choosing.best_of, self.config.search.max_candidates - 1
    )
    return [self.config.prompts, *(self._child(i) for i in range(best_of))]

  def _cost(self, calls: Iterable[tuple[str, int]]) -> Amount:
    by_role: dict[str, list[int]] = {}
    for role, size in calls:
      by_role.setdefault(role, []).append(size)
    total = Amount()
    for role, sizes in by_role.items():
      total += self._role_cost(role, sizes)
    return total

  def _role_cost(self, role: str, sizes: Sequence[int]) -> Amount:
    n, most = len(sizes), self._max_tokens(role)
    prompt = sum(sizes) + n * self._later_bytes(role)
    tokens_in = math.ceil(prompt / _BYTES_PER_TOKEN) + n * _CHAT_TOKENS
    price = self.prices[role]
    pico = 0 if price is None else price.pico(n, tokens_in, n * most)
    bound = Amount(n, tokens_in + n * most, pico)
    seen = [x for x in self.ledger.snapshot().lines if x.role == role]
    answers = sum(x.answered_calls for x in seen)
    if answers < _MEASURED:
      return bound
    mean = n * _MARGIN / answers
    return Amount(
      n,
      min(bound.tokens, math.ceil(mean * sum(x.spent.tokens for x in seen))),
      min(bound.pico, math.ceil(mean * sum(x.spent.pico for x in seen))),
    )

  def _later_bytes(self, role: str) -> int:
    """Of a prompt, what another model will have said."""
    if role == "student_taught":
      return round(_BYTES_PER_TOKEN * self._max_tokens("teacher"))
    if role == "teacher":
      if self.config.agent_mode:
        said = round(_BYTES_PER_TOKEN * self._max_tokens("student_baseline"))
        return min(said, self.config.agent_probe_chars)
      e = self.config.episode
      most = min(e.max_probe_tokens, e.shown_probe_tokens)
      return round(_BYTES_PER_TOKEN * most)
    return 0

  def _max_tokens(self, role: str) -> int:
    if role == "reflection":
      return self.config.reflection.max_tokens
    return sampling(self.config.episode, role)[0]


def length(prompts: PromptsConfig) -> int:
  """Characters of all four templates."""
  return sum(len(text) for text in dataclasses.astuple(prompts))


def _bound(cap: str) -> str:
  return "at most" if cap == "calls" else "about"
