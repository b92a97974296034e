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

  @property
  def amounts(self) -> dict[str, int]:
    """Field of Amount -> its cap; only those that have one."""
    pico = None if self.dollars is None else round(self.dollars * PICO)
    found = {"calls": self.calls, "tokens": self.tokens, "pico": pico}
    return {name: most for name, most in found.items() if most is not None}


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
