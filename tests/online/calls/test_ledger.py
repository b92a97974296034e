"""Caps that cannot be overshot, worked by hand; test_caps.py has the load."""

import asyncio

import pytest

from atlas_jax.online.calls.ledger import (
  PICO,
  Amount,
  BudgetSpent,
  Caps,
  Ledger,
  picodollars,
)

ONE = Amount(1)


async def call(ledger, bound, cost, *, until=None):
  """One call; 'refused' or 'done'."""
  try:
    async with ledger.reserve(bound) as held:
      await (asyncio.sleep(0) if until is None else until.wait())
      held.cost = cost
  except BudgetSpent:
    return "refused"
  return "done"


def tokens(n):
  return Amount(1, n)


@pytest.mark.parametrize(
  ("caps", "spent", "first", "cost", "second", "waits", "end"),
  [
    # 80 of 100 are held; 50 more fit only if the first call costs 50 at most.
    (Caps(tokens=100), 0, tokens(80), tokens(50), tokens(50), True, "done"),
    (Caps(tokens=100), 0, tokens(80), tokens(51), tokens(50), True, "refused"),
    # What can never fit does not wait.
    (Caps(tokens=100), 0, tokens(80), tokens(1), tokens(101), False, "refused"),
    # To the call: one is spent, one open; the open one might cost nothing.
    (Caps(calls=3), 1, ONE, ONE, ONE, False, "done"),
    (Caps(calls=2), 1, ONE, ONE, ONE, True, "refused"),
  ],
)
def test_beside_a_call_that_is_open(
  caps, spent, first, cost, second, waits, end
):
  async def main():
    ledger, gate = Ledger(caps, spent=Amount(spent)), asyncio.Event()
    opened = asyncio.create_task(call(ledger, first, cost, until=gate))
    await asyncio.sleep(0)
    other = asyncio.create_task(call(ledger, second, second))
    await asyncio.sleep(0.01)
    assert other.done() is not waits and ledger.open.calls == 1
    gate.set()
    assert await opened == "done" and await other == end
    assert ledger.open == Amount()

  asyncio.run(main())


@pytest.mark.parametrize(
  ("dollars", "each", "fit"),
  [
    # 0.1 + 0.1 + 0.1 > 0.3 in floats: ten calls of ten cents fit in a dollar.
    (1.0, 0.1, 10),
    # As a float it is less than so many picodollars.
    (1.001, 1.001, 1),
  ],
)
def test_money_is_added_without_rounding(dollars, each, fit):
  async def main():
    ledger, one = Ledger(Caps(dollars=dollars)), Amount(1, 0, picodollars(each))
    assert one.pico >= each * PICO
    ends = [await call(ledger, one, one) for _ in range(fit + 1)]
    return ends, ledger.spent.dollars

  ends, spent = asyncio.run(main())
  assert ends == ["done"] * fit + ["refused"] and spent == dollars


def test_a_call_that_is_broken_off_is_lost_at_its_bound():
  async def main():
    ledger = Ledger(Caps(tokens=100))
    with pytest.raises(KeyError):
      async with ledger.reserve(tokens(70)):
        raise KeyError
    assert (ledger.spent, ledger.lost) == (Amount(), tokens(70))
    assert ledger.share() == 0.7
    return await call(ledger, tokens(31), ONE)

  assert asyncio.run(main()) == "refused"


def test_the_queue_goes_on_when_a_waiter_leaves():
  async def main():
    ledger, gate = Ledger(Caps(tokens=100)), asyncio.Event()
    first = asyncio.create_task(
      call(ledger, tokens(80), tokens(10), until=gate)
    )
    await asyncio.sleep(0)
    large = asyncio.create_task(call(ledger, tokens(90), tokens(90)))
    small = asyncio.create_task(call(ledger, tokens(20), tokens(20)))
    await asyncio.sleep(0)
    assert not small.done()  # in the order of arrival
    large.cancel()
    assert await small == "done"
    gate.set()
    return await first, ledger.open.calls

  assert asyncio.run(main()) == ("done", 0)


def test_minutes_count_over_processes_and_end_calls_under_way():
  async def main():
    now = 100.0
    ledger = Ledger(Caps(minutes=1.0), seconds=59.875, clock=lambda: now)
    assert ledger.seconds_left == 0.125
    with pytest.raises(BudgetSpent, match="minutes"):
      async with ledger.deadline():
        await asyncio.sleep(5)
    for later in (100.125, 100.5):  # none left is no time
      now = later
      with pytest.raises(BudgetSpent, match="of 1 used"):
        async with ledger.deadline():
          raise AssertionError("nothing may start")
    # Another timeout is not ours to explain.
    other = Ledger(Caps(minutes=1.0))
    with pytest.raises(TimeoutError):
      async with other.deadline():
        raise TimeoutError

  asyncio.run(main())


def test_a_part_can_be_kept_for_later():
  async def main():
    caps = Caps(calls=10, minutes=2.0)
    ledger = Ledger(caps, seconds=30.0, clock=lambda: 9.0)
    assert ledger.seconds_left == 90.0
    ledger.keep(Caps(calls=4, minutes=1.5))
    assert ledger.seconds_left == 0.0
    early = [await call(ledger, ONE, ONE) for _ in range(7)]
    ledger.keep(Caps())
    return early, [await call(ledger, ONE, ONE) for _ in range(5)]

  early, late = asyncio.run(main())
  assert early == ["done"] * 6 + ["refused"]
  assert late == ["done"] * 4 + ["refused"]


def test_what_earlier_processes_paid_or_lost_counts():
  async def main():
    before = {"spent": Amount(3, 60, PICO, 2), "lost": tokens(30)}
    ledger = Ledger(Caps(tokens=100), **before)
    assert await call(ledger, tokens(11), ONE) == "refused"
    end = await call(ledger, tokens(10), Amount(1, 7, unpriced=1))
    return end, ledger

  end, ledger = asyncio.run(main())
  assert end == "done" and ledger.lost == tokens(30)
  assert ledger.spent == Amount(4, 67, PICO, 3)
  assert ledger.share() == 0.97 and ledger.seconds_left is None
