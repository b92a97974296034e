"""What may be spent, what is spent, and what is reserved for calls under way.

A call reserves the most that it can cost, is sent, and is settled at what it
did cost. A cap is checked where a call reserves, against everything that was
paid, may have been paid, or is reserved; so no cap can be overshot.

1. A reservation that fits is granted, in the order of arrival.
2. One that would fit if open ones cost less waits for them.
3. One that cannot fit any more raises BudgetSpent; nothing is sent.
4. A call that ends without a word on its cost (killed, timed out, broken off)
   is lost: it counts against the caps at its bound, apart from spend.

The sums are those of the run, over all of its processes: record.py knows what
earlier ones paid.
"""

import asyncio
import collections
import contextlib
import math
import operator
import time
from dataclasses import astuple, dataclass

from atlas_jax.config_tree import PositiveFloat, PositiveInt
from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.limits import Limits


class BudgetSpent(AtlasError):
  """A call would overshoot a cap; nothing was sent. The text names the cap."""


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
  unpriced: int = 0  # of the calls: those whose dollars nobody knows

  def __add__(self, other: "Amount") -> "Amount":
    return Amount(*map(operator.add, astuple(self), astuple(other)))

  def __sub__(self, other: "Amount") -> "Amount":
    return Amount(*map(operator.sub, astuple(self), astuple(other)))

  @property
  def dollars(self) -> float:
    return self.pico / PICO


NOTHING = Amount()


def picodollars(dollars: float) -> int:
  """Rounded up: a bound stays a bound."""
  return math.ceil(round(dollars * PICO, 3))


@dataclass
class Reservation:
  """Room for one call, which is lost unless somebody sets its cost."""

  cost: Amount | None = None


class Ledger:
  """The spend of one run. Its coroutines belong to one event loop.

  spent is of calls whose cost is known, those without a price included; open of
  calls under way, at their bounds.

  Args:
    caps: see Caps.
    spent, lost: of earlier processes of the run.
    seconds: wall time of earlier processes.
    clock: seconds, as time.monotonic.
  """

  def __init__(
    self,
    caps: Caps,
    *,
    spent: Amount = NOTHING,
    lost: Amount = NOTHING,
    seconds: float = 0.0,
    clock=time.monotonic,
  ):
    self.caps = caps
    # endpoint -> its limits: how fast, where the caps say how much.
    self.limits = collections.defaultdict(Limits)
    self._kept = Caps()
    self.spent, self.lost, self.open = spent, lost, NOTHING
    self._turn, self._changed = asyncio.Lock(), asyncio.Event()
    self._clock = clock
    self._started = clock() - seconds

  def keep(self, kept: Caps) -> None:
    """Keeps a part of every cap for later; Caps() frees it again."""
    self._kept = kept

  @property
  def seconds(self) -> float:
    """Wall time of the run, its earlier processes included."""
    return self._clock() - self._started

  @property
  def seconds_left(self) -> float | None:
    """Until the cap on minutes; below 0 after it. None: no cap."""
    if self.caps.minutes is None:
      return None
    minutes = self.caps.minutes - (self._kept.minutes or 0.0)
    return minutes * 60 - self.seconds

  @contextlib.asynccontextmanager
  async def deadline(self):
    """Ends what runs inside it when the minutes are used up.

    Raises:
      BudgetSpent: they are.
    """
    left = self.seconds_left
    if left is not None and left <= 0:
      raise self._refusal("minutes")
    try:
      async with asyncio.timeout(left) as scope:
        yield
    except TimeoutError:
      if not scope.expired():
        raise
      raise self._refusal("minutes") from None

  @contextlib.asynccontextmanager
  async def reserve(self, bound: Amount):
    """Reserves `bound` for one call; gives the Reservation, to set its cost.

    Raises:
      BudgetSpent: it cannot fit.
    """
    async with self._turn:  # the first waits here, the others behind it
      while self._lacking(bound + self.open) is not None:
        if (name := self._lacking(bound)) is not None:
          raise self._refusal("dollars" if name == "pico" else name)
        self._changed.clear()
        await self._changed.wait()
      self.open += bound
    reservation = Reservation()
    try:
      yield reservation
    finally:
      self.open -= bound
      if reservation.cost is None:
        self.lost += bound
      else:
        self.spent += reservation.cost
      self._changed.set()

  def _lacking(self, need: Amount) -> str | None:
    """The field of Amount by which `need` would overshoot a cap."""
    kept, used = self._kept.amounts, self.spent + self.lost + need
    for name, most in self.caps.amounts.items():
      if getattr(used, name) > most - kept.get(name, 0):
        return name
    return None

  def used(self) -> dict[str, float]:
    """Cap -> what is paid, or may have been."""
    paid = self.spent + self.lost
    used = {cap: getattr(paid, cap) for cap in ("calls", "tokens", "dollars")}
    return used | {"minutes": self.seconds / 60}

  def _refusal(self, cap: str) -> BudgetSpent:
    kept = getattr(self._kept, cap)
    aside = f", {kept:g} of them set aside" if kept else ""
    return BudgetSpent(
      f"the cap on {cap} leaves no room for another call:"
      f" {self.used()[cap]:.6g} of {getattr(self.caps, cap):g} used{aside}"
    )

  def share(self) -> float | None:
    """What is used of the cap that is nearest to its end; None without caps."""
    limits = {k: v for k, v in vars(self.caps).items() if v is not None}
    used = self.used()
    shares = [min(1.0, used[cap] / limit) for cap, limit in limits.items()]
    return max(shares, default=None)
