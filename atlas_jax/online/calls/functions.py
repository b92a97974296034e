"""Functions of the user's, sync or async, as models and as agents.

A sync one has a thread, and no executor's: those are waited for when the
program ends.
"""

import asyncio
import collections
import concurrent.futures
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass

from atlas_jax.online.calls.calls import Answer, CallFailed, Request, Transport
from atlas_jax.online.calls.cleaning import is_unicode


@dataclass
class FunctionCalls(Transport):
  """Asks a function.

  target: its name, for a person. arguments: makes its arguments of a request.
  answer: makes an answer of what it returned, a text or None.
  """

  target: str
  function: Callable
  arguments: Callable[[Request], tuple]
  answer: Callable[[str | None], Answer]

  async def send(self, request: Request) -> Answer:
    """See Transport."""
    said = await call(self.function, *self.arguments(request))
    if said is not None and not isinstance(said, str):
      kind = type(said).__name__
      raise CallFailed(f"the function returned {kind}, not str", again=False)
    if not is_unicode(said or ""):
      raise CallFailed("the answer is not valid Unicode", again=False)
    return self.answer(said)


async def call(function: Callable, *args):
  """What `function` returns: in the event loop if async, else in a thread.

  Raises:
    RuntimeError: it was cancelled from within, or raised StopIteration.
    CallFailed: it raised SystemExit, which is not our end.
    What else it raises.
  """
  try:
    if inspect.iscoroutinefunction(function):
      return await function(*args)
    found = await _in_thread(function, *args)
    # Such as an object whose __call__ is async.
    return await found if inspect.isawaitable(found) else found
  except SystemExit as error:
    raise CallFailed(f"SystemExit: {error}", again=False) from None
  except asyncio.CancelledError:
    if asyncio.current_task().cancelling():
      raise
    raise RuntimeError("the function was cancelled from within") from None


async def last_match(pattern, text: str, timeout_s: float | None):
  """The last match of a pattern of the package regex, or None.

  It is searched without the interpreter's lock. Left behind at the deadline, a
  search ends by itself.
  """

  def search():
    found = collections.deque(pattern.finditer(text, timeout=timeout_s), 1)
    return found[0] if found else None

  return await call(search)


async def _in_thread(function: Callable, *args):
  """The result of a sync function; given up, its thread goes on alone."""
  result = concurrent.futures.Future()
  result.set_running_or_notify_cancel()  # from here on nobody cancels it

  def run():
    try:
      result.set_result(function(*args))
    except StopIteration:  # no future takes it
      error = RuntimeError("the function raised StopIteration")
      result.set_exception(error)
    except BaseException as error:
      result.set_exception(error)

  threading.Thread(target=run, name="user function", daemon=True).start()
  return await asyncio.wrap_future(result)
