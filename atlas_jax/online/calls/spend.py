"""Amounts of calls, tokens and money, and the caps on them."""

import math
from dataclasses import dataclass

from atlas_jax.config_tree import PositiveFloat, PositiveInt

# Money is added up in whole picodollars: sums do not depend on their order.
PICO = 10**12


@dataclass(frozen=True)
class Caps:
  """The most that a run may use, over all of its processes. None: no cap."""

  calls: PositiveInt | None = None  # sent over the wire, failed ones included
  tokens: PositiveInt | None = None  # prompt and completion
  dollars: PositiveFloat | None = None
  minutes: PositiveFloat | None = None  # of wall time, servers' start too


@dataclass(frozen=True)
class Amount:
  """A cost, or the bound of one."""

  calls: int = 0
  tokens: int = 0
  pico: int = 0  # picodollars

  def __add__(self, other: "Amount") -> "Amount":
    return Amount(
      self.calls + other.calls,
      self.tokens + other.tokens,
      self.pico + other.pico,
    )

  def __sub__(self, other: "Amount") -> "Amount":
    return self + Amount(-other.calls, -other.tokens, -other.pico)

  @property
  def dollars(self) -> float:
    return self.pico / PICO


NOTHING = Amount()


def picodollars(dollars: float) -> int:
  """Rounded up: a bound stays a bound."""
  return math.ceil(round(dollars * PICO, 3))


@dataclass(frozen=True)
class Line:
  """The spend of one role at one model, as the run has seen it.

  answered_calls: of those spent; a refused call costs nothing and is none.
  """

  role: str
  model: str
  spent: Amount = Amount()
  lost: Amount = Amount()
  unpriced_calls: int = 0
  answered_calls: int = 0


@dataclass(frozen=True)
class Room:
  """What the caps leave for new calls. None: no cap."""

  calls: PositiveInt | None
  tokens: PositiveInt | None
  dollars: PositiveFloat | None
  seconds: float | None


@dataclass(frozen=True)
class Snapshot:
  """The state of a run's spend, for a live line and a table.

  shares: cap -> the part of it that is used, lost calls included.
  """

  calls: int
  tokens: int
  dollars: float
  unpriced_calls: int
  lost: Amount
  open_calls: int
  seconds: float
  seconds_left: float | None
  shares: dict[str, float]
  lines: tuple[Line, ...]

  @property
  def share(self) -> float:
    """Of the cap that is nearest to its end; 0 without caps."""
    return max(self.shares.values(), default=0.0)
