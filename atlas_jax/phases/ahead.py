"""A queue of values that are made in order, some steps before they are used.

It knows nothing of a value but the position that it ends at. Each value is
made from the position that the one before it ended at, whatever the clock
does, so that a run that was killed goes on with the same values.
"""

import itertools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


def _done(value: dict) -> Future:
  future = Future()
  future.set_result(value)
  return future


class AheadQueue:
  """JSON values; value["stream"] is the position it ends at. Close it.

  Args:
    make: (position, step, *args) -> the value of a step. It runs in a thread
      for what is begun ahead.
    position: where the first value begins.
    saved: `state()` of a checkpoint, which then decides; None at the start.
  """

  def __init__(
    self, make: Callable[..., dict], position: dict, saved: dict | None
  ):
    saved = saved or {"stream": position, "ahead": []}
    self._make = make
    self._values = deque(map(_done, saved["ahead"]))
    self._position = saved["stream"]  # of the last value that was used
    self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")

  def close(self) -> None:
    self._pool.shutdown(wait=False, cancel_futures=True)

  def begin(self, steps: range, *args) -> None:
    """Begins those of `steps`, the next ones, that are not begun yet."""
    for step in steps[len(self._values) :]:
      before = self._values[-1] if self._values else None
      made = self._pool.submit(self._make_behind, before, step, *args)
      self._values.append(made)

  def _make_behind(self, before: Future | None, step: int, *args) -> dict:
    position = before.result()["stream"] if before else self._position
    return self._make(position, step, *args)

  def first(self, step: int, *args) -> dict:
    """The value of the next step, made now if it was not begun.

    It stays in the queue until `pop`. If it cannot be made, those behind it
    are dropped too: all are made again.
    """
    try:
      if not self._values:
        self._values.append(_done(self._make(self._position, step, *args)))
      return self._values[0].result()
    except Exception:  # a signal leaves them to the checkpoint
      self.wait()
      self._values.clear()
      raise

  def pop(self) -> None:
    """The first value has been used."""
    self._position = self._values.popleft().result()["stream"]

  def wait(self) -> None:
    """Returns when nothing is being made."""
    wait(self._values)

  def state(self) -> dict:
    """For a checkpoint, once what was begun is done."""
    self.wait()
    # What failed, and all behind it, is made again by the next `first`.
    good = itertools.takewhile(lambda v: v.exception() is None, self._values)
    values = [value.result() for value in good]
    last = values[-1]["stream"] if values else self._position
    return {"stream": last, "ahead": values}
