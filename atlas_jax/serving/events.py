"""One event loop in a thread of its own, for clients that outlive a call.

A client's connections belong to the loop that opened them. With one loop for a
whole run they stay open between steps, and requests of several callers are
under way together.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any


class EventLoop:
  """Runs coroutines for callers in any thread. Call `close` at the end."""

  def __init__(self):
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(
      target=self._loop.run_forever, name="requests", daemon=True
    )
    self._thread.start()

  def submit(self, work: Coroutine) -> Future:
    """Starts `work` and returns at once."""
    return asyncio.run_coroutine_threadsafe(work, self._loop)

  def run(self, work: Coroutine) -> Any:
    """The result of `work`; an interrupt of the caller ends it."""
    future = self.submit(work)
    try:
      return future.result()
    except BaseException:
      future.cancel()
      raise

  def cancel(self) -> None:
    """Cancels what is under way, and waits for its end."""

    async def cancel_all():
      others = asyncio.all_tasks() - {asyncio.current_task()}
      for task in others:
        task.cancel()
      await asyncio.gather(*others, return_exceptions=True)

    self.submit(cancel_all()).result()

  def close(self) -> None:
    """Cancels what is under way and ends the thread."""
    self.cancel()
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()
