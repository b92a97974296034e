"""Functions that tests name as models: module:function."""

import asyncio
import threading
import time

seen = []  # (messages, sampling, whether in the main thread)


def echo(messages, sampling):
  main = threading.current_thread() is threading.main_thread()
  seen.append((messages, sampling, main))
  return f"echo {messages[-1]['content']}"


async def later(messages, sampling):
  await asyncio.sleep(0)
  return f"later {messages[-1]['content']}"


def flaky(messages, sampling):
  seen.append((messages, sampling, None))
  if len(seen) == 1:
    raise ConnectionError("gone")
  return "back"


def broken(messages, sampling):
  raise KeyError("a mistake")


def number(messages, sampling):
  return 7


def exits(messages, sampling):
  raise SystemExit("over")


def stops(messages, sampling):
  raise StopIteration


def halves(messages, sampling):
  return "half a \ud800"


async def gives_up(messages, sampling):
  raise asyncio.CancelledError


class _Called:
  async def __call__(self, messages, sampling):
    await asyncio.sleep(0)
    return f"called {messages[-1]['content']}"


called = _Called()


def hangs(messages, sampling):
  time.sleep(60)
