"""Rates and pauses of an endpoint, on a clock that never waits."""

import asyncio

import pytest

from atlas_jax.online.calls.limits import Limits


class Quick(asyncio.SelectorEventLoop):
  """Its time jumps to whatever it would wait for."""

  def __init__(self):
    super().__init__()
    self.now = 100.0
    select = self._selector.select

    def jump(timeout):
      self.now += timeout or 0.0
      return select(0)

    self._selector.select = jump

  def time(self):
    return self.now


def seconds(work, *rates) -> float:
  """How long `await work(limits)` takes; rates: requests per minute."""

  async def main():
    limits = Limits()
    for rate in rates or [None]:
      limits.tighten(8, rate)
    start = asyncio.get_running_loop().time()
    await work(limits)
    return asyncio.get_running_loop().time() - start

  with asyncio.Runner(loop_factory=Quick) as runner:
    return runner.run(main())


async def one(limits, for_s=0.0):
  async with limits.turn():
    await asyncio.sleep(for_s)


@pytest.mark.parametrize("rates", [(30,), (30, 90), (90, 30), (None, 30)])
def test_the_smaller_rate_of_two_models_holds(rates):
  async def work(limits):
    for _ in range(3):
      await one(limits)

  # Three requests at one in two seconds; the first goes at once.
  assert seconds(work, *rates) == pytest.approx(4)
  assert seconds(work) == 0


def test_a_pause_holds_all_and_a_shorter_one_does_not_end_it():
  async def work(limits):
    limits.pause(3)
    limits.pause(1)
    await asyncio.gather(one(limits), one(limits))

  assert seconds(work) == pytest.approx(3)


def test_a_pause_holds_those_who_wait_for_their_turn_already():
  async def work(limits):
    await one(limits)
    waiting = asyncio.create_task(one(limits))
    await asyncio.sleep(1)
    limits.pause(5)
    await waiting

  assert seconds(work, 30) == pytest.approx(6)


def test_no_more_requests_than_the_smaller_concurrency():
  async def work(limits):
    limits.tighten(2)
    await asyncio.gather(*(one(limits, 1) for _ in range(4)))

  assert seconds(work) == pytest.approx(2)
