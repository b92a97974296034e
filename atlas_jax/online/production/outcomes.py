"""What became of a question in production, in one word, to be counted.

And what may be logged of one: nothing that is asked or answered.
"""

import traceback

from atlas_jax.teaching.protocol import Teaching
from atlas_jax.teaching.speakers import NoAnswer

# taught               answered under a teaching
# alone_late           unaided: probe or teacher missed the deadline
# alone_down           unaided: probe or teacher failed, or the teacher failed
#                      so often of late that it was not asked
# alone_bad_teaching   unaided: what the teacher wrote held no teaching
# alone_guided_failed  unaided: the guided request was refused or failed
OUTCOMES = (
  "taught",
  "alone_late",
  "alone_down",
  "alone_bad_teaching",
  "alone_guided_failed",
)

# Seconds that all before the answer may take, unless a caller says otherwise.
TEACH_DEADLINE_S = 10.0


def outcome_of(found: Teaching | NoAnswer) -> str:
  """The outcome so far; 'taught' if a teaching is at hand."""
  if isinstance(found, NoAnswer):
    return "alone_late" if found.status == "timeout" else "alone_down"
  return "alone_bad_teaching" if found.text is None else "taught"


def place(reason: Exception) -> str:
  """What an unexpected exception is and where it was raised, not its words."""
  last = traceback.extract_tb(reason.__traceback__)[-1]
  return f"{type(reason).__name__} at {last.filename}:{last.lineno}"
