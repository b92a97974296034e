"""One ask: from the record, from an equal one under way, or over the wire."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable

from atlas_jax.online.calls.calls import Reply
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.record import Attempt, Record
from atlas_jax.online.calls.record_tables import ANSWERED, GOOD
from atlas_jax.online.calls.spend import Amount


@dataclasses.dataclass
class _Running:
  task: asyncio.Task
  waiting: int = 0


async def answered(
  ledger: Ledger,
  record: Record,
  key: str,
  work: Callable[[tuple[Attempt, ...]], Awaitable[Reply]],
) -> Reply:
  """The reply to the ask `key`, which is paid once however many want it.

  Args:
    ledger, record: of the run.
    key: equal for equal asks.
    work: does it; it is given the attempts of earlier processes that belong
      to this ask, which are charged already.

  Raises:
    BudgetSpent: no room, or no time. What `work` raises.
  """
  running = record.under_way.get(key)
  joined = running is not None
  if not joined:
    past = record.past(key)
    for attempt in past.attempts:
      _charge(ledger, attempt)
    if past.reply is not None:
      return past.reply
    task = asyncio.create_task(_in_time(ledger, work, past.attempts))
    running = record.under_way[key] = _Running(task)
    # Called before any of those who wait goes on.
    task.add_done_callback(lambda _: _over(record, key))
  running.waiting += 1
  try:
    reply = await asyncio.shield(running.task)
  except asyncio.CancelledError:
    if running.waiting == 1 and not running.task.done():
      running.task.cancel()
      # Its attempt is settled before the caller goes on, to close the record.
      await asyncio.wait([running.task])
    raise
  finally:
    running.waiting -= 1
  return dataclasses.replace(reply, cached=True) if joined else reply


def _over(record: Record, key: str) -> None:
  running = record.under_way.pop(key)
  task = running.task
  if task.cancelled() or task.exception() is not None:
    return
  if running.waiting > 1 and task.result().status not in GOOD:
    record.share(key, running.waiting)


async def _in_time(ledger, work, past) -> Reply:
  async with ledger.deadline():
    return await work(past)


def _charge(ledger: Ledger, attempt: Attempt) -> None:
  if attempt.cost is None:
    ledger.charge(attempt.role, attempt.model, lost=attempt.bound)
  else:
    ledger.charge(
      attempt.role,
      attempt.model,
      spent=attempt.cost,
      priced=attempt.priced,
      answered=attempt.status in ANSWERED,
    )


async def attempted(
  ledger: Ledger,
  record: Record,
  *,
  key: str,
  role: str,
  model: str,
  request: dict,
  bound: Amount,
  send: Callable[[], Awaitable[Attempt]],
) -> Attempt:
  """Reserves, notes, sends and settles one attempt.

  Args:
    ledger, record: of the run.
    key, role, model, request: kept in the record; no secrets.
    bound: the most that it can cost.
    send: does it; an Attempt also for a failure.

  Raises:
    BudgetSpent: no room; nothing was sent.
  """
  async with ledger.reserve(role, model, bound) as held:
    row = record.begin(key, role, model, request, bound)
    began = time.monotonic()
    try:
      done = await send()
    except BaseException:
      # Broken off: nobody knows whether the server did it.
      seconds = time.monotonic() - began
      record.settle(
        row,
        key,
        Attempt(
          role, model, "lost", False, bound, None, False, seconds=seconds
        ),
      )
      raise
    record.settle(row, key, done)
    if done.cost is not None:
      held.settle(
        done.cost, priced=done.priced, answered=done.status in ANSWERED
      )
    return done
