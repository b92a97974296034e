"""Stops asking a dead teacher, so that clients do not wait for it in turn.

closed  every call is admitted; `failures` in a row open it
open    no call is admitted for `open_s` seconds
trial   then one is, every `open_s` seconds, until one succeeds, which closes it
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
    self._most, self._open_s, self._clock = failures, open_s, clock
    self._failed = 0
    self._until: float | None = None  # the next trial; None: closed

  @property
  def state(self) -> str:
    """closed, open (also while one call tries) or trial."""
    if self._until is None:
      return "closed"
    return "open" if self._clock() < self._until else "trial"

  def admit(self) -> bool:
    """Whether to call."""
    state = self.state
    if state == "trial":
      self._until = self._clock() + self._open_s
    return state != "open"

  def report(self, succeeded: bool | None) -> None:
    """How an admitted call ended; None: given up, which counts as nothing."""
    if succeeded:
      if self._until is not None:
        log.warning("the teacher answers again")
      self._failed, self._until = 0, None
    elif succeeded is False:
      self._failed += 1
      if self._failed >= self._most:
        self._until = self._clock() + self._open_s
      if self._failed == self._most:
        log.warning(
          "the teacher failed %d times in a row; students answer alone for"
          " %g s",
          *(self._failed, self._open_s),
        )
