"""Stops asking a dead teacher, so that clients do not wait for it in turn.

closed  every call is admitted; `failures` in a row open it
open    no call is admitted for `open_s` seconds
trial   then one call at a time is; its success closes, its failure opens
"""

import logging
import math
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Breaker:
  """For one event loop; every admitted call is reported once.

  Args:
    failures: in a row.
    open_s: seconds.
    clock: seconds that never go back.
  """

  def __init__(
    self,
    failures: int,
    open_s: float,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._most, self._open_s, self._clock = failures, open_s, clock
    self._failed = 0
    self._until: float | None = None  # the next trial; None: closed

  @property
  def state(self) -> str:
    """closed, open (also while one call tries) or trial."""
    if self._until is None:
      return "closed"
    return "open" if self._clock() < self._until else "trial"

  def admit(self) -> str | None:
    """What to give back to `report`; None: do not call."""
    state = self.state
    if state == "trial":
      self._until = math.inf  # one at a time
    return None if state == "open" else state

  def report(self, admitted: str, succeeded: bool | None) -> None:
    """How an admitted call ended; None: given up, which counts as nothing."""
    if admitted == "trial":
      wait_s = 0.0 if succeeded is None else self._open_s
      self._until = None if succeeded else self._clock() + wait_s
      if succeeded:
        log.warning("the teacher answers again")
    if self._until is not None:
      return  # also where it was admitted before the breaker opened
    if succeeded:
      self._failed = 0
    elif succeeded is False:
      self._failed += 1
      if self._failed == self._most:
        self._until = self._clock() + self._open_s
        log.warning(
          "the teacher failed %d times in a row; students answer alone for"
          " %g s",
          *(self._failed, self._open_s),
        )
