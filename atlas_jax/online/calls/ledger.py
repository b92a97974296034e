"""What may be spent, what is spent, and what is reserved for calls under way.

A call reserves the most that it can cost, is sent, and is settled at what it
did cost. A cap is checked where a call reserves, against everything that was
paid, may have been paid, or is reserved; so no cap can be overshot.

1. A reservation that fits is granted, in the order of arrival.
2. One that would fit if open ones cost less waits for them.
3. One that cannot fit any more raises BudgetSpent; nothing is sent.
4. A call that ends without a word on its cost (killed, timed out, broken off)
   is lost: it counts against the caps at its bound, apart from spend.

Two sums are kept. `paid` starts with all that earlier processes of the run
paid or lost, and is what the caps hold. The spend that is shown, and that
decisions use, starts at nothing and grows as a resumed run replays its
answers; so a decision comes out as it did before the interruption.
"""

import asyncio
import collections
import contextlib
import time
from dataclasses import fields

from atlas_jax.online.calls.calls import BudgetSpent
from atlas_jax.online.calls.limits import Limits
from atlas_jax.online.calls.spend import (
  NOTHING,
  PICO,
  Amount,
  Caps,
  Line,
  Room,
  Snapshot,
)


class Held:
  """One reservation. Unless settled, it ends as lost."""

  def __init__(self, bound: Amount):
    self.bound = bound
    self.cost: Amount | None = None
    self.priced = self.answered = True

  def settle(
    self, cost: Amount, *, priced: bool = True, answered: bool = True
  ) -> None:
    """Says what the call did cost; priced False: its dollars are unknown."""
    self.cost, self.priced, self.answered = cost, priced, answered


class Ledger:
  """The spend of one run. Its coroutines belong to one event loop.

  Args:
    caps: see Caps.
    paid: by earlier processes of the run, lost calls included.
    seconds: wall time of earlier processes.
    clock: seconds, as time.monotonic.
  """

  def __init__(
    self,
    caps: Caps,
    *,
    paid: Amount = NOTHING,
    seconds: float = 0.0,
    clock=time.monotonic,
  ):
    self.caps = caps
    # endpoint -> its limits: how fast, where the caps say how much.
    self.limits = collections.defaultdict(Limits)
    self._set_aside = Caps()
    self._paid = paid
    self._open = Amount()
    self._lines: dict[tuple[str, str], Line] = {}
    self._queue: collections.deque = collections.deque()
    self._clock = clock
    self._started = clock() - seconds

  def set_aside(self, kept: Caps) -> None:
    """Keeps a part of every cap for later; Caps() frees it again."""
    self._set_aside = kept
    self._admit()

  @property
  def seconds(self) -> float:
    """Wall time of the run, its earlier processes included."""
    return self._clock() - self._started

  @property
  def seconds_left(self) -> float | None:
    """Until the cap on minutes; below 0 after it. None: no cap."""
    minutes = _less(self.caps.minutes, self._set_aside.minutes)
    return None if minutes is None else minutes * 60 - self.seconds

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
  async def reserve(self, role: str, model: str, bound: Amount):
    """Holds `bound` for one call; gives the Held to settle.

    Raises:
      BudgetSpent: it cannot fit.
    """
    granted = asyncio.get_running_loop().create_future()
    self._queue.append((bound, granted))
    self._admit()
    try:
      await granted
    except asyncio.CancelledError:
      if granted.done() and not granted.cancelled():
        if granted.exception() is None:  # granted, but nobody is there
          self._release(bound)
      else:
        self._queue = collections.deque(
          item for item in self._queue if item[1] is not granted
        )
        self._admit()
      raise
    held = Held(bound)
    try:
      yield held
    finally:
      if held.cost is None:
        self._paid += bound
        self.charge(role, model, lost=bound)
      else:
        self._paid += held.cost
        self.charge(
          role,
          model,
          spent=held.cost,
          priced=held.priced,
          answered=held.answered,
        )
      self._release(bound)

  def _release(self, bound: Amount) -> None:
    self._open -= bound
    self._admit()

  def _admit(self) -> None:
    while self._queue:
      bound, granted = self._queue[0]
      refused = self._over(bound)
      if refused is None and self._over(bound + self._open) is not None:
        return
      self._queue.popleft()
      if granted.done():
        continue
      if refused is None:
        self._open += bound
        granted.set_result(None)
      else:
        granted.set_exception(self._refusal(refused))

  def _over(self, more: Amount) -> str | None:
    """The cap that `more` would overshoot."""
    for cap, limit, used in self._limits():
      if limit is not None and used + getattr(more, cap) > limit:
        return "dollars" if cap == "pico" else cap
    return None

  def _limits(self):
    """(field of Amount, limit, used) of each cap, first as paid, then less
    what is set aside, as this process has seen it."""
    seen = self._seen()
    for cap in ("calls", "tokens", "pico"):
      limit = _limit(self.caps, cap)
      yield cap, limit, getattr(self._paid, cap)
      kept = _limit(self._set_aside, cap)
      yield cap, _less(limit, kept), getattr(seen, cap)

  def _seen(self) -> Amount:
    lines = self._lines.values()
    return sum((line.spent + line.lost for line in lines), Amount())

  def _refusal(self, cap: str) -> BudgetSpent:
    limit = getattr(self.caps, cap)
    used = {
      "calls": self._paid.calls,
      "tokens": self._paid.tokens,
      "dollars": self._paid.dollars,
      "minutes": self.seconds / 60,
    }[cap]
    kept = getattr(self._set_aside, cap)
    aside = f", {kept:g} of them set aside" if kept else ""
    return BudgetSpent(
      f"the cap on {cap} leaves no room for another call: {used:.6g} of"
      f" {limit:g} used{aside}"
    )

  def charge(
    self,
    role: str,
    model: str,
    *,
    spent: Amount = NOTHING,
    lost: Amount = NOTHING,
    priced: bool = True,
    answered: bool = True,
  ) -> None:
    """Adds to the spend that is shown, not to what is paid: for a replay."""
    line = self._lines.get((role, model)) or Line(role, model)
    self._lines[role, model] = Line(
      role,
      model,
      line.spent + spent,
      line.lost + lost,
      line.unpriced_calls + (0 if priced else spent.calls),
      line.answered_calls + (spent.calls if answered else 0),
    )

  def room(self) -> Room:
    """What is left of the caps, less what is lost, open and set aside."""
    used = self._seen() + self._open
    left = {}
    for cap in ("calls", "tokens", "pico"):
      limit = _less(_limit(self.caps, cap), _limit(self._set_aside, cap))
      left[cap] = None if limit is None else max(0, limit - getattr(used, cap))
    return Room(
      left["calls"],
      left["tokens"],
      None if left["pico"] is None else left["pico"] / PICO,
      self.seconds_left,
    )

  def snapshot(self) -> Snapshot:
    """The state now; lines are in the order of role and model."""
    lines = tuple(self._lines[key] for key in sorted(self._lines))
    spent = sum((line.spent for line in lines), Amount())
    lost = sum((line.lost for line in lines), Amount())
    used = {
      "calls": spent.calls + lost.calls,
      "tokens": spent.tokens + lost.tokens,
      "dollars": spent.dollars + lost.dollars,
      "minutes": self.seconds / 60,
    }
    limits = {f.name: getattr(self.caps, f.name) for f in fields(Caps)}
    return Snapshot(
      calls=spent.calls,
      tokens=spent.tokens,
      dollars=spent.dollars,
      unpriced_calls=sum(line.unpriced_calls for line in lines),
      lost=lost,
      open_calls=self._open.calls,
      seconds=self.seconds,
      seconds_left=self.seconds_left,
      shares={
        cap: min(1.0, used[cap] / limit) if limit else 1.0
        for cap, limit in limits.items()
        if limit is not None
      },
      lines=lines,
    )


def _limit(caps: Caps, cap: str) -> int | None:
  if cap == "pico":
    return None if caps.dollars is None else round(caps.dollars * PICO)
  return getattr(caps, cap)


def _less(limit, kept):
  return limit if limit is None or kept is None else limit - kept
