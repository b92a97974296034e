"""The event loop that a run's clients share."""

import asyncio
import concurrent.futures
import threading

import pytest

from atlas_jax.serving.events import EventLoop


@pytest.fixture
def loop():
  loop = EventLoop()
  yield loop
  loop.close()


async def double(x):
  await asyncio.sleep(0.01)
  return 2 * x


def test_results_and_errors_reach_the_caller(loop):
  async def fail():
    raise ValueError("no")

  assert loop.run(double(3)) == 6
  with pytest.raises(ValueError, match="no"):
    loop.run(fail())


def test_callers_in_several_threads_share_one_loop(loop):
  async def name():
    await asyncio.sleep(0.01)
    return threading.current_thread().name

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    names = set(pool.map(lambda _: loop.run(name()), range(8)))
  assert names == {"requests"}


def test_work_is_under_way_together(loop):
  started, both = [], asyncio.Event()

  async def meet():
    started.append(1)
    if len(started) == 2:
      both.set()
    await asyncio.wait_for(both.wait(), 5)

  for future in [loop.submit(meet()), loop.submit(meet())]:
    future.result(5)


def test_closing_ends_what_never_would():
  loop = EventLoop()
  future = loop.submit(asyncio.sleep(3600))
  loop.close()
  with pytest.raises(concurrent.futures.CancelledError):
    future.result(5)
