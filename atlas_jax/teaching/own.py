"""Functions of the user's own: a verifier, terms of the reward.

They are trusted: they run with a deadline and without the lock (verify.py).
"""

import asyncio
import inspect
import math

from atlas_jax import targets
from atlas_jax.errors import AtlasError


class OwnError(AtlasError):
  """A function of the user's raised, or returned what is no valid number."""


def call(target: str, share: bool, arguments: tuple) -> float | None:
  """Calls a function of the user's, in the process of a verifier.

  Args:
    target: names the function, sync or async.
    share: it returns a number within 0 and 1; else any that is finite. None
      is always taken.
    arguments: for the function.

  Raises:
    OwnError: with the function's file and line.
  """
  function = targets.load(target, "function")
  try:
    value = function(*arguments)
    if inspect.isawaitable(value):
      value = asyncio.run(value)
    if value is None:
      return None
    valid = "a number from 0 to 1" if share else "a finite number"
    number = math.nan if isinstance(value, str) else float(value)
    if not (0 <= number <= 1 if share else math.isfinite(number)):
      raise ValueError(f"it returned {value!r}, expected {valid} or None")
  except BaseException as error:  # a CancelledError too
    raise OwnError(targets.raised(error, function)) from None
  return number
