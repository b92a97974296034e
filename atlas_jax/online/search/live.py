"""One line that says how a run stands.

  search | best 0.712 | 7 candidates | 1,204 calls | $0.83 | 12:30 left

Numbers of the spend are those of the whole run.
"""

from atlas_jax.online.calls.ledger import Snapshot
from atlas_jax.online.search.files import Journal
from atlas_jax.progress import duration


def line(journal: Journal, s: Snapshot) -> str:
  """The line's text."""
  scores = [c.score for c in journal.candidates]
  parts = [journal.stage]
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
    parts.append(f"{duration(s.seconds_left)} left")
  if s.shares:
    parts.append(f"{s.share:.0%} of the caps")
  return " | ".join(parts)
