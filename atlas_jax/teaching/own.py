"""Functions of the user's own: a verifier, terms of the reward.

They are trusted: they run with a deadline and without the lock (verify.py).
"""

import asyncio
import inspect
import math

from atlas_jax import targets


def call(
  target: str, share: bool, arguments: tuple
) -> tuple[float | None, str | None]:
  """(what a function returns, why it is not taken), in the pool's process.

  Args:
    target: names the function, sync or async.
    share: it returns a number within 0 and 1; else any that is finite. None
      is always taken.
    arguments: what it is called with.
  """
  function = targets.load(target, "function")
  try:
    value = function(*arguments)
    if inspect.isawaitable(value):
      value = asyncio.run(value)
    if value is None:
      return None, None
    valid = "a number from 0 to 1" if share else "a finite number"
    number = math.nan if isinstance(value, str) else float(value)
    if not (0 <= number <= 1 if share else math.isfinite(number)):
      raise ValueError(f"it returned {value!r}, expected {valid} or None")
  except (Exception, SystemExit) as error:
    return None, f"{target}: {targets.raised(error, function)}"[:1000]
  return number, None
