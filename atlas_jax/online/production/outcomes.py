"""What becomes of a question in production: taught, or answered alone.

taught               answered under a teaching
alone_late           unaided: probe or teacher missed the deadline
alone_down           unaided: probe or teacher failed, or the teacher failed
                     so often of late that it was not asked
alone_bad_teaching   unaided: what the teacher wrote held no teaching
alone_taught_failed  unaided: the taught request was refused or failed

Nothing that is asked or answered may be logged.
"""

import asyncio
import logging
import traceback
from collections.abc import Awaitable

from atlas_jax.online.calls.calls import ModelRefused
from atlas_jax.online.calls.ledger import BudgetSpent
from atlas_jax.teaching.protocol import Teaching
from atlas_jax.teaching.speakers import NoAnswer

log = logging.getLogger(__name__)
OUTCOMES = (
  *("taught", "alone_late", "alone_down"),
  *("alone_bad_teaching", "alone_taught_failed"),
)

# Seconds that all before the answer may take, unless a caller says otherwise.
TEACH_DEADLINE_S = 10.0


def place(reason: Exception) -> str:
  """What an unexpected exception is and where it was raised, not its words."""
  last = traceback.extract_tb(reason.__traceback__)[-1]
  return f"{type(reason).__name__} at {last.filename}:{last.lineno}"


async def extra(what: str, work: Awaitable) -> tuple[str, object | None]:
  """(outcome, what `work` brings): whatever goes wrong, there is an answer."""
  try:
    return "taught", await work
  except TimeoutError:
    return "alone_late", None
  except NoAnswer as failure:
    late = failure.status == "timeout"
    return ("alone_late" if late else "alone_down"), None
  except (BudgetSpent, ModelRefused) as error:
    log.warning("no %s any more: %s", what, error)
  except Exception as error:
    log.error("no %s: %s", what, place(error))
  return "alone_down", None


async def teaching(
  work: Awaitable[list[Teaching]], deadline_s: float
) -> tuple[str, Teaching | None]:
  """(outcome so far, the one teaching that `work` brings by the deadline)."""

  async def in_time() -> Teaching:
    async with asyncio.timeout(deadline_s):
      (found,) = await work
    return found

  outcome, found = await extra("teaching", in_time())
  if found is not None and found.text is None:
    outcome = "alone_bad_teaching"
  return outcome, found
