"""One line that says how a run stands, renewed while it works.

  search | best 0.712 | 7 candidates | 1,204 calls | $0.83 | 12:30 left

On a terminal it is rewritten in place; in a log file it is a line now and
then. Numbers of the spend are those of the whole run.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import IO

from atlas_jax.online.calls.ledger import Snapshot

log = logging.getLogger(__name__)
LOG_EVERY_S = 30.0


def line(stage: str, scores: Sequence[float], s: Snapshot) -> str:
  """The line's text; scores are those of the candidates on validation."""
  parts = [stage]
  if scores:
    parts.append(f"best {max(scores):.3f}")
  parts.append(f"{len(scores)} candidate{'s' * (len(scores) != 1)}")
  parts.append(f"{s.calls:,} calls")
  if s.lost.calls:
    parts.append(f"{s.lost.calls:,} lost")
  money = f"${s.dollars:,.2f}"
  if s.unpriced_calls:
    money += f" and {s.unpriced_calls:,} calls unpriced"
  parts.append(money)
  if s.seconds_left is not None:
    left = max(0, round(s.seconds_left))
    parts.append(f"{left // 60}:{left % 60:02d} left")
  if s.shares:
    parts.append(f"{s.share:.0%} of the caps")
  return " | ".join(parts)


@contextlib.contextmanager
def shown(text: Callable[[], str], stream: IO[str]):
  """Shows text() while the context is open."""
  if stream.isatty():
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(
      get_renderable=lambda: Text(text()),
      console=Console(file=getattr(stream, "terminal", stream)),
      refresh_per_second=2,
      transient=True,
      redirect_stdout=False,
      redirect_stderr=False,
    ):
      yield
    return
  over = threading.Event()

  def tick():
    while not over.wait(LOG_EVERY_S):
      log.info("%s", text())

  ticker = threading.Thread(target=tick, name="live", daemon=True)
  ticker.start()
  try:
    yield
  finally:
    over.set()
    ticker.join()
