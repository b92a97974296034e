"""Caps that cannot be overshot, worked by hand and under random load."""

import asyncio
import random

import pytest

from atlas_jax.online.calls.ledger import (
  PICO,
  Amount,
  BudgetSpent,
  Caps,
  Ledger,
  picodollars,
)


async def call(ledger, bound, cost, *, until=None):
  """One call; 'refused' or 'done'."""
  try:
    async with ledger.reserve(bound) as held:
      await (asyncio.sleep(0) if until is None else until.wait())
      held.cost = cost
  except BudgetSpent:
    return "refused"
  return "done"


def test_a_cap_on_calls_holds_to_the_call():
  async def main():
    ledger = Ledger(Caps(calls=10))
    one = Amount(1)
    ends = await asyncio.gather(*[call(ledger, one, one) for _ in range(64)])
    return ends, ledger

  ends, ledger = asyncio.run(main())
  assert ends == ["done"] * 10 + ["refused"] * 54
  assert ledger.spent.calls == 10 and ledger.share() == 1.0


@pytest.mark.parametrize("cost, end", [(50, "done"), (51, "refused")])
def test_what_does_not_fit_waits_for_what_is_open(cost, end):
  # 80 of 100 are held; 50 more fit only if the first call costs 50 at most.
  async def main():
    ledger, gate = Ledger(Caps(tokens=100)), asyncio.Event()
    first = asyncio.create_task(
      call(ledger, Amount(1, 80), Amount(1, cost), until=gate)
    )
    await asyncio.sleep(0)
    second = asyncio.create_task(call(ledger, Amount(1, 50), Amount(1, 50)))
    await asyncio.sleep(0.01)
    assert not second.done() and ledger.open.calls == 1
    gate.set()
    return await first, await second

  assert asyncio.run(main()) == ("done", end)


def test_what_can_never_fit_is_refused_at_once():
  async def main():
    ledger, gate = Ledger(Caps(tokens=100)), asyncio.Event()
    first = asyncio.create_task(
      call(ledger, Amount(1, 80), Amount(1, 1), until=gate)
    )
    await asyncio.sleep(0)
    end = await call(ledger, Amount(1, 101), Amount(1, 1))
    assert not first.done()
    gate.set()
    await first
    return end

  assert asyncio.run(main()) == "refused"


def test_money_is_added_without_rounding():
  # 0.1 + 0.1 + 0.1 > 0.3 in floats: ten calls of ten cents fit in a dollar.
  async def main():
    ledger = Ledger(Caps(dollars=1.0))
    dime = Amount(1, 0, picodollars(0.1))
    ends = [await call(ledger, dime, dime) for _ in range(11)]
    return ends, ledger.spent.dollars

  ends, dollars = asyncio.run(main())
  assert ends == ["done"] * 10 + ["refused"] and dollars == 1.0


def test_a_call_that_takes_all_dollars_fits():
  # As a float 1.001 dollars are less than so many picodollars.
  assert picodollars(1.001) > 1.001 * PICO

  async def main():
    all_of_it = Amount(1, 0, picodollars(1.001))
    return await call(Ledger(Caps(dollars=1.001)), all_of_it, all_of_it)

  assert asyncio.run(main()) == "done"


def test_a_call_that_is_broken_off_is_lost_at_its_bound():
  async def main():
    ledger = Ledger(Caps(tokens=100))
    with pytest.raises(KeyError):
      async with ledger.reserve(Amount(1, 70)):
        raise KeyError
    return ledger, await call(ledger, Amount(1, 31), Amount(1, 1))

  ledger, end = asyncio.run(main())
  assert (ledger.spent.calls, ledger.spent.tokens) == (0, 0)
  assert ledger.lost == Amount(1, 70) and ledger.share() == 0.7
  assert end == "refused"


def test_random_load_never_overshoots():
  caps = Caps(calls=300, tokens=20_000, dollars=0.5)
  draw = random.Random(0)
  state = {"tokens": 0, "pico": 0, "calls": 0, "worst": 0.0}

  async def one(ledger):
    # Our own account of the worst case, beside the ledger's.
    tokens, pico = draw.randrange(1, 400), draw.randrange(PICO // 100)
    bound = Amount(1, tokens, pico)
    async with ledger.reserve(bound) as held:
      for name in ("calls", "tokens", "pico"):
        state[name] += getattr(bound, name)
      used = (
        state["calls"] / 300,
        state["tokens"] / 20_000,
        state["pico"] / (0.5 * PICO),
      )
      state["worst"] = max(state["worst"], *used)
      await asyncio.sleep(draw.random() / 1000)
      if draw.random() < 0.1:
        return
      cost = Amount(1, draw.randrange(tokens + 1), draw.randrange(pico + 1))
      held.cost = cost
      state["tokens"] -= tokens - cost.tokens
      state["pico"] -= pico - cost.pico

  async def main():
    ledger = Ledger(caps)
    work = [one(ledger) for _ in range(500)]
    ends = await asyncio.gather(*work, return_exceptions=True)
    return [e for e in ends if e is not None], ledger

  errors, ledger = asyncio.run(main())
  assert {type(e) for e in errors} == {BudgetSpent}
  assert 0.95 < state["worst"] <= 1.0
  assert ledger.spent.tokens + ledger.lost.tokens == state["tokens"]
  assert ledger.open.calls == 0


def test_the_queue_goes_on_when_a_waiter_leaves():
  async def main():
    ledger, gate = Ledger(Caps(tokens=100)), asyncio.Event()
    first = asyncio.create_task(
      call(ledger, Amount(1, 80), Amount(1, 10), until=gate)
    )
    await asyncio.sleep(0)
    large = asyncio.create_task(call(ledger, Amount(1, 90), Amount(1, 90)))
    small = asyncio.create_task(call(ledger, Amount(1, 20), Amount(1, 20)))
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
    ledger = Ledger(Caps(minutes=1.0), seconds=59.9, clock=lambda: now)
    assert ledger.seconds_left == pytest.approx(0.1)
    with pytest.raises(BudgetSpent, match="minutes"):
      async with ledger.deadline():
        await asyncio.sleep(5)
    now += 0.2
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
    ledger, one = Ledger(Caps(calls=10)), Amount(1)
    ledger.keep(Caps(calls=4))
    early = [await call(ledger, one, one) for _ in range(7)]
    assert ledger.left() == {"calls": 0}
    ledger.keep(Caps())
    assert ledger.left() == {"calls": 4}
    return early, [await call(ledger, one, one) for _ in range(5)]

  early, late = asyncio.run(main())
  assert early == ["done"] * 6 + ["refused"]
  assert late == ["done"] * 4 + ["refused"]


def test_a_part_of_the_minutes_can_be_kept_for_later():
  ledger = Ledger(Caps(minutes=2.0), seconds=30.0, clock=lambda: 9.0)
  assert ledger.seconds_left == 90.0
  ledger.keep(Caps(minutes=1.5))
  assert ledger.seconds_left == 0.0


def test_what_earlier_processes_paid_or_lost_counts():
  async def main():
    before = {"spent": Amount(3, 60, PICO, 2), "lost": Amount(1, 30)}
    ledger = Ledger(Caps(tokens=100), **before)
    assert await call(ledger, Amount(1, 11), Amount(1, 1)) == "refused"
    end = await call(ledger, Amount(1, 10), Amount(1, 7, unpriced=1))
    return end, ledger

  end, ledger = asyncio.run(main())
  assert end == "done" and ledger.lost == Amount(1, 30)
  assert (ledger.spent.calls, ledger.spent.tokens, ledger.spent.dollars) == (
    4,
    67,
    1.0,
  )
  assert ledger.spent.unpriced == 3 and ledger.share() == 0.97
  assert ledger.seconds_left is None


def test_half_a_second_is_time_and_none_is_not():
  async def main(seconds):
    ledger = Ledger(Caps(minutes=1.0), seconds=seconds, clock=lambda: 9.0)
    async with ledger.deadline():
      return ledger.seconds_left

  assert asyncio.run(main(59.5)) == 0.5
  with pytest.raises(BudgetSpent, match="minutes"):
    asyncio.run(main(60.0))


def test_used_and_reserved_calls_fill_a_cap_together():
  async def main():
    ledger, gate = Ledger(Caps(calls=3), spent=Amount(1)), asyncio.Event()
    one = Amount(1)
    first = asyncio.create_task(call(ledger, one, one, until=gate))
    await asyncio.sleep(0)
    assert await call(ledger, one, one) == "done"  # to the call
    third = asyncio.create_task(call(ledger, one, one))
    await asyncio.sleep(0.01)
    assert not third.done()  # the first might have cost nothing
    gate.set()
    return await first, await third

  assert asyncio.run(main()) == ("done", "refused")
