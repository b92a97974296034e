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
  """How long `await work(limits)` takes; (requests, tokens) per minute."""

  async def main():
    limits = Limits()
    for requests, tokens in rates or [(None, None)]:
      limits.tighten(
        concurrency=8, requests_per_minute=requests, tokens_per_minute=tokens
      )
    start = asyncio.get_running_loop().time()
    await work(limits)
    return asyncio.get_running_loop().time() - start

  with asyncio.Runner(loop_factory=Quick) as runner:
    return runner.run(main())


async def one(limits, tokens=1):
  async with limits.turn(tokens):
    pass


@pytest.mark.parametrize(("used", "wait"), [(20, 2), (5, 0.5), (40, 4)])
def test_the_next_request_waits_for_the_tokens_that_were_used(used, wait):
  async def work(limits):
    async with limits.turn(20) as spent:
      spent(used)
    await one(limits, 20)

  # 600 a minute are ten a second.
  assert seconds(work, (None, 600)) == pytest.approx(wait)


def test_the_smaller_rate_of_two_models_holds():
  async def work(limits):
    for _ in range(3):
      await one(limits)

  for rates in ([(30, None)], [(30, None), (90, None)], [(90, 9999), (30, 9)]):
    # Three requests at one in two seconds; the first goes at once.
    slow = 20 / 3 if rates[-1][1] else 2
    assert seconds(work, *rates) == pytest.approx(2 * slow)
  assert seconds(work) == 0


def test_a_pause_holds_all_and_a_shorter_one_does_not_end_it():
  async def work(limits):
    limits.pause(3)
    limits.pause(1)
    await asyncio.gather(one(limits), one(limits))

  assert seconds(work) == pytest.approx(3)


def test_no_more_requests_than_the_smaller_concurrency():
  async def work(limits):
    limits.tighten(
      concurrency=2, requests_per_minute=None, tokens_per_minute=None
    )

    async def slow():
      async with limits.turn(1):
        await asyncio.sleep(1)

    await asyncio.gather(*(slow() for _ in range(4)))

  assert seconds(work) == pytest.approx(2)
