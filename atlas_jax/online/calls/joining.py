"""Work that several want at one time, and that is done once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass
class _Work:
  """Something under way, and how many wait for it."""

  task: asyncio.Task
  waiting: int = 0


class Joining:
  """What is under way, by its key. It belongs to one event loop."""

  def __init__(self):
    self._under_way: dict[str, _Work] = {}

  async def once(self, key: str, work: Callable[[], Awaitable]):
    """What `work` brings; who wants the same meanwhile shares it."""
    if key not in self._under_way:
      self._under_way[key] = _Work(asyncio.create_task(work()))
    shared = self._under_way[key]
    shared.waiting += 1
    try:
      return await asyncio.shield(shared.task)
    except asyncio.CancelledError:
      if shared.waiting == 1 and not shared.task.done():
        del self._under_way[key]  # who asks now begins anew
        shared.task.cancel()
        # Its attempt is settled before the caller goes on, to close the record.
        await asyncio.wait([shared.task])
      raise
    finally:
      shared.waiting -= 1
      # Before the first of those who waited goes on.
      if shared.task.done() and self._under_way.get(key) is shared:
        del self._under_way[key]
