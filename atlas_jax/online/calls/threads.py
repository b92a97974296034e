"""Calls a function of the user's, sync or async, without being held up by it.

Not in an executor's thread: those are waited for when the program ends.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable


async def call(function: Callable, *args):
  """What `function` returns: in the event loop if async, else in a thread.

  Raises:
    RuntimeError: it was cancelled from within, or raised StopIteration.
    What it raises; SystemExit is not an Exception.
  """
  try:
    if inspect.iscoroutinefunction(function):
      return await function(*args)
    found = await _in_thread(function, *args)
    # Such as an object whose __call__ is async.
    return await found if inspect.isawaitable(found) else found
  except asyncio.CancelledError:
    if asyncio.current_task().cancelling():
      raise
    raise RuntimeError("the function was cancelled from within") from None


async def _in_thread(function: Callable, *args):
  """The result of a sync function; given up, its thread goes on alone."""
  loop = asyncio.get_running_loop()
  result = loop.create_future()

  def deliver(settle, value):
    if not result.done():  # the caller may be gone
      settle(value)

  def run():
    try:
      settle, value = result.set_result, function(*args)
    except StopIteration:  # no future takes it
      settle = result.set_exception
      value = RuntimeError("the function raised StopIteration")
    except BaseException as error:
      settle, value = result.set_exception, error
    if not loop.is_closed():
      loop.call_soon_threadsafe(deliver, settle, value)

  threading.Thread(target=run, name="user function", daemon=True).start()
  return await result
