"""How fast one endpoint is asked: concurrency, a rate, and pauses it wants.

Models that share an endpoint share its limits; the smaller number holds.
"""

import asyncio
import contextlib
import math


class Limits:
  """The limits of one endpoint. Its coroutines belong to one event loop."""

  def __init__(self):
    self._concurrency, self._rate = math.inf, math.inf
    self._turns: asyncio.Semaphore | None = None
    self._next = self._paused_until = 0.0  # loop time

  def tighten(
    self, concurrency: int, requests_per_minute: float | None = None
  ) -> None:
    """Adds the limits of one more model; before the first turn."""
    self._concurrency = min(self._concurrency, concurrency)
    self._rate = min(self._rate, requests_per_minute or math.inf)

  def pause(self, seconds: float) -> None:
    """Nothing is sent for so long: the server asked for it."""
    now = asyncio.get_running_loop().time()
    self._paused_until = max(self._paused_until, now + seconds)

  @property
  def paused(self) -> bool:
    return asyncio.get_running_loop().time() < self._paused_until

  @contextlib.asynccontextmanager
  async def turn(self):
    """Waits until one request may be sent, and counts it until the end."""
    if self._turns is None:
      self._turns = asyncio.Semaphore(self._concurrency)
    async with self._turns:
      loop = asyncio.get_running_loop()
      at = max(loop.time(), self._next)
      self._next = at + 60.0 / self._rate
      while (left := max(at, self._paused_until) - loop.time()) > 0:
        await asyncio.sleep(left)
      yield
