"""Stops asking a dead teacher, so that clients do not wait for it in turn.

closed  every call is admitted; `failures` in a row open it
open    no call is admitted for `open_s` seconds
trial   then one call at a time is; its success closes, its failure opens
"""

import logging
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
    self._limit = failures
    self._open_s = open_s
    self._clock = clock
    self._failed = 0
    self._opened: float | None = None
    self._trying = False

  @property
  def state(self) -> str:
    """closed, open or trial."""
    if self._opened is None:
      return "closed"
    return "open" if self._clock() < self._opened + self._open_s else "trial"

  def admit(self) -> str | None:
    """The state to give back to `report`; None: do not call."""
    state = self.state
    if state == "open" or (state == "trial" and self._trying):
      return None
    self._trying |= state == "trial"
    return state

  def report(self, admitted: str, succeeded: bool | None) -> None:
    """How an admitted call ended; None: given up, which counts as nothing."""
    if admitted == "trial":
      self._trying = False
    if succeeded:
      if self._opened is not None:
        log.warning("the teacher answers again")
      self._failed, self._opened = 0, None
    elif succeeded is False and admitted == "trial":
      self._opened = self._clock()
    elif succeeded is False and self._opened is None:
      self._failed += 1
      if self._failed >= self._limit:
        self._opened = self._clock()
        log.warning(
          "the teacher failed %d times in a row; students answer alone for"
          " %g s",
          *(self._failed, self._open_s),
        )
