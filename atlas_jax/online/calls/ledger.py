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
import time
from dataclasses import dataclass

from atlas_jax.online.calls.calls import BudgetSpent
from atlas_jax.online.calls.limits import Limits
from atlas_jax.online.calls.spend import NOTHING, Amount, Caps


@dataclass
class Reservation:
  """Room for one call. Unless it is settled, the call is lost."""

  cost: Amount | None = None
  priced: bool = True

  def settle(self, cost: Amount, *, priced: bool = True) -> None:
    """Notes what the call did cost; priced False: its dollars are unknown."""
    self.cost, self.priced = cost, priced


@dataclass(frozen=True)
class Snapshot:
  """The state of a run's spend, for a live line and a table.

  calls, tokens and dollars are of calls whose cost is known. shares: cap ->
  the part of it that is used, lost calls included.
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

  @property
  def share(self) -> float:
    """Of the cap that is nearest to its end; 0 without caps."""
    return max(self.shares.values(), default=0.0)


class Ledger:
  """The spend of one run. Its coroutines belong to one event loop.

  Args:
    caps: see Caps.
    spent, lost, unpriced_calls: of earlier processes of the run.
    seconds: wall time of earlier processes.
    clock: seconds, as time.monotonic.
  """

  def __init__(
    self,
    caps: Caps,
    *,
    spent: Amount = NOTHING,
    lost: Amount = NOTHING,
    unpriced_calls: int = 0,
    seconds: float = 0.0,
    clock=time.monotonic,
  ):
    self.caps = caps
    # endpoint -> its limits: how fast, where the caps say how much.
    self.limits = collections.defaultdict(Limits)
    self._kept = Caps()
    self._spent, self._lost, self._open = spent, lost, NOTHING
    self._unpriced_calls = unpriced_calls
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
    """Reserves `bound` for one call; gives the Reservation to settle.

    Raises:
      BudgetSpent: it cannot fit.
    """
    async with self._turn:  # the first waits here, the others behind it
      while self._lacking(bound + self._open) is not None:
        if (name := self._lacking(bound)) is not None:
          raise self._refusal("dollars" if name == "pico" else name)
        self._changed.clear()
        await self._changed.wait()
      self._open += bound
    reservation = Reservation()
    try:
      yield reservation
    finally:
      self._open -= bound
      if reservation.cost is None:
        self._lost += bound
      else:
        self._spent += reservation.cost
        if not reservation.priced:
          self._unpriced_calls += reservation.cost.calls
      self._changed.set()

  def left(self) -> dict[str, int]:
    """Field of Amount -> what is neither paid nor kept; only what has a cap."""
    kept, paid = self._kept.amounts, vars(self._spent + self._lost)
    return {
      name: most - kept.get(name, 0) - paid[name]
      for name, most in self.caps.amounts.items()
    }

  def _lacking(self, need: Amount) -> str | None:
    """The field of Amount by which `need` would overshoot a cap."""
    left = self.left()
    return next((n for n in left if getattr(need, n) > left[n]), None)

  def used(self) -> dict[str, float]:
    """Cap -> what is paid, or may have been."""
    paid, minutes = self._spent + self._lost, self.seconds / 60
    return {
      "calls": paid.calls,
      "tokens": paid.tokens,
      "dollars": paid.dollars,
      "minutes": minutes,
    }

  def _refusal(self, cap: str) -> BudgetSpent:
    kept = getattr(self._kept, cap)
    aside = f", {kept:g} of them set aside" if kept else ""
    return BudgetSpent(
      f"the cap on {cap} leaves no room for another call:"
      f" {self.used()[cap]:.6g} of {getattr(self.caps, cap):g} used{aside}"
    )

  def snapshot(self) -> Snapshot:
    """The state now."""
    used = self.used()
    limits = {k: v for k, v in vars(self.caps).items() if v is not None}
    return Snapshot(
      calls=self._spent.calls,
      tokens=self._spent.tokens,
      dollars=self._spent.dollars,
      unpriced_calls=self._unpriced_calls,
      lost=self._lost,
      open_calls=self._open.calls,
      seconds=self.seconds,
      seconds_left=self.seconds_left,
      shares={
        cap: min(1.0, used[cap] / limit) if limit else 1.0
        for cap, limit in limits.items()
      },
    )
