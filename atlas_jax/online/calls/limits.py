"""How fast one endpoint is asked: concurrency, rates, and pauses it wants.

Models that share an endpoint share its limits; the smaller number holds.
"""

import asyncio
import contextlib

_MINUTE_S = 60.0


class Limits:
  """The limits of one endpoint. Its coroutines belong to one event loop."""

  def __init__(self):
    self._concurrency: int | None = None
    self._rates: dict[str, float | None] = {"requests": None, "tokens": None}
    self._next = {"requests": 0.0, "tokens": 0.0}  # loop time of a free slot
    self._turns: asyncio.Semaphore | None = None
    self._paused_until = 0.0

  def tighten(
    self,
    *,
    concurrency: int,
    requests_per_minute: float | None,
    tokens_per_minute: float | None,
  ) -> None:
    """Adds the limits of one more model; before the first turn."""
    self._concurrency = _smaller(self._concurrency, concurrency)
    for name, rate in (
      ("requests", requests_per_minute),
      ("tokens", tokens_per_minute),
    ):
      self._rates[name] = _smaller(self._rates[name], rate)

  def pause(self, seconds: float) -> None:
    """Nothing is sent for so long: the server asked for it."""
    now = asyncio.get_running_loop().time()
    self._paused_until = max(self._paused_until, now + seconds)

  @contextlib.asynccontextmanager
  async def turn(self, tokens: int):
    """Waits until one request of at most `tokens` may be sent.

    Gives a function to be told the tokens that it did use.
    """
    if self._turns is None:
      self._turns = asyncio.Semaphore(self._concurrency)
    async with self._turns:
      await self._wait("requests", 1)
      await self._wait("tokens", tokens)
      yield lambda used: self._give_back("tokens", tokens - used)

  async def _wait(self, name: str, amount: int) -> None:
    loop = asyncio.get_running_loop()
    at = max(loop.time(), self._next[name])
    self._next[name] = at + self._seconds(name, amount)
    while (left := max(at, self._paused_until) - loop.time()) > 0:
      await asyncio.sleep(left)

  def _give_back(self, name: str, amount: int) -> None:
    self._next[name] -= self._seconds(name, amount)

  def _seconds(self, name: str, amount: int) -> float:
    """How long `amount` keeps the endpoint busy at its rate."""
    rate = self._rates[name]
    return 0.0 if rate is None else amount * _MINUTE_S / rate


def _smaller(a, b):
  return min((x for x in (a, b) if x is not None), default=None)
