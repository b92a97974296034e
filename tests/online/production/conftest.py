"""Tests here may be coroutine functions: each runs in a loop of its own."""

import asyncio
import inspect

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
  test, given = pyfuncitem.obj, pyfuncitem.funcargs
  if not inspect.iscoroutinefunction(test):
    return None
  asyncio.run(test(**{n: given[n] for n in inspect.signature(test).parameters}))
  return True
