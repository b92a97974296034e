"""Functions of the user's own: a verifier, and terms of the reward.

They are trusted with files, programs, sockets and memory, and run in processes
with a deadline alone.
"""

import asyncio
import inspect
import logging
import math

from atlas_jax import targets
from atlas_jax.confined import Raised, Unanswered
from atlas_jax.errors import AtlasError
from atlas_jax.teaching.verify import VerifierJob, VerifierPool

log = logging.getLogger(__name__)


class OwnError(AtlasError):
  """A function of the user's raised, or returned what is no valid number."""


def _called(target: str, share: bool, arguments: tuple) -> float | None:
  """The value of a function of the user's, in the process of a verifier.

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


OWN = VerifierJob(_called, locked=False)


class OwnFunctions(VerifierPool):
  """Processes that call functions of the user's.

  Attributes:
    failure: the last error of such a function, None before one.
  """

  failure: str | None = None

  def call(self, target: str, *arguments, share: bool) -> float | None:
    """The value that the function returns; see _called. It sets `failure`.

    Raises:
      Unanswered: it raised, returned no valid number, or was late.
    """
    try:
      return self.ask(OWN, target, share, arguments)
    except Unanswered as error:
      joint = ": " if isinstance(error, Raised) else " "
      failure = f"{target}{joint}{error.args[-1]}"
      if self.failure is None:
        log.warning("no verdict, the first time: %s", failure)
      self.failure = failure
      raise
