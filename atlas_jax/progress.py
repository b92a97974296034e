"""How far work is: a live line on a terminal, and a line of the log at times.

  2_grpo 15/70 | 1:49 left, ends 01:30 | reward -0.039 ± 0.312 | ...

A log file has no live line. Only the lead process shows one.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping

from atlas_jax.terminal import show_live

log = logging.getLogger(__name__)

LOG_EVERY_S = 15.0
DRAW_EVERY_S = 0.5
# What a step is shown by; what its numbers lack is left out.
SHOWN = {
  "sft": ("loss {loss:.4g}", "{tokens_per_second:,.0f} tokens/s"),
  "grpo": (
    "reward {reward_mean:.3f} ± {reward_std:.3f}",
    "taught {accuracy_taught:.0%}, alone {accuracy_alone:.0%}",
    "validation {validation_accuracy_taught:.0%}",
    "KL {kl:.3g}",
    "cut {truncated_fraction:.0%}",
    "flat groups {zero_variance_fraction:.0%}",
    "{tokens_per_second:,.0f} tokens/s",
  ),
}


# The lines that are open; the innermost is drawn.
_open: list[Callable[[], str]] = []


@contextlib.contextmanager
def shown(text: Callable[[], str], *, at_end: bool = False):
  """Shows text() while the context is open.

  Every LOG_EVERY_S seconds the line is logged if it has changed; with at_end
  also when the context closes.
  """
  over, logged = threading.Event(), ""

  def keep():
    nonlocal logged
    line = text()
    if line and line != logged:
      log.info("%s", line)
    logged = line

  def tick():
    due = time.monotonic() + LOG_EVERY_S
    try:
      while not over.wait(DRAW_EVERY_S):
        if _open[-1] is text:
          show_live(text())
        if time.monotonic() >= due:
          due += LOG_EVERY_S
          keep()
    finally:  # here: a signal may end the wait for this thread
      show_live("")

  _open.append(text)
  ticker = threading.Thread(target=tick, name="progress", daemon=True)
  ticker.start()
  try:
    yield
  finally:
    over.set()
    ticker.join()
    _open.remove(text)
    if at_end:
      keep()


def duration(seconds: float) -> str:
  """H:MM:SS, or M:SS below an hour."""
  minutes, s = divmod(max(0, round(seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


def timed(what: str) -> Callable[[], str]:
  """The line of work that does not say how far it is."""
  began = time.monotonic()
  return lambda: f"{what} | {duration(time.monotonic() - began)}"


class Steps:
  """The line of a phase that trains.

  The first step of a process compiles its programs: the time that is left is
  reckoned from those behind it.

  Args:
    phase: INDEX_KIND.
    total: its steps.
    clock: gives the seconds since the epoch.
  """

  def __init__(self, phase: str, total: int, clock=time.time):
    self._phase, self._total, self._clock = phase, total, clock
    self._opened, self._first = clock(), None
    self._line = ""

  def line(self) -> str:
    """The step that was done last; empty before the first."""
    return self._line

  def update(self, step: int, numbers: Mapping[str, float]) -> None:
    """Takes the metrics of a step, their names without the phase."""
    now = self._clock()
    if self._first is None:
      self._first = step, now
    parts = [f"{self._phase} {step}/{self._total}", *self._time(step, now)]
    for part in SHOWN[self._phase.split("_")[-1]]:
      with contextlib.suppress(KeyError):
        parts.append(part.format_map(numbers))
    self._line = " | ".join(parts)

  def _time(self, step: int, now: float) -> list[str]:
    first, at = self._first
    if step == self._total:
      return [f"took {duration(now - self._opened)}"]
    if step == first:
      return []
    left = (now - at) / (step - first) * (self._total - step)
    end, today = time.localtime(now + left), time.localtime(now)
    form = "%H:%M" if end[:3] == today[:3] else "%a %H:%M"
    return [f"{duration(left)} left, ends {time.strftime(form, end)}"]
