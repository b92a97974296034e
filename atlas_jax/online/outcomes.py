"""What became of a question in production, in one word, to be counted.

And what may be logged of one: nothing that is asked or answered.
"""

import traceback

from atlas_jax.online.protocol import Taught

# taught               answered under a teaching
# alone_late           unaided: probe or teacher missed the deadline
# alone_down           unaided: probe or teacher failed, or the teacher failed
#                      so often of late that it was not asked
# alone_no_approach    unaided: the student stated no approach
# alone_bad_teaching   unaided: what the teacher wrote held no teaching
# alone_guided_failed  unaided: the guided request was refused or failed
OUTCOMES = (
  "taught",
  "alone_late",
  "alone_down",
  "alone_no_approach",
  "alone_bad_teaching",
  "alone_guided_failed",
)

# Seconds that all before the answer may take, unless a caller says otherwise.
TEACH_DEADLINE_S = 10.0


def outcome_of(taught: Taught) -> str:
  """The outcome of an attempt so far; 'taught' if a teaching is at hand."""
  if taught.teaching is not None:
    return "taught"
  if taught.status == "timeout":
    return "alone_late"
  if taught.status == "error":
    return "alone_down"
  if taught.stage == "approach":
    return "alone_no_approach"
  return "alone_bad_teaching"


def place(reason: Exception) -> str:
  """What an unexpected exception is and where it was raised, not its words."""
  last = traceback.extract_tb(reason.__traceback__)[-1]
  return f"{type(reason).__name__} at {last.filename}:{last.lineno}"
