"""A run in the small world that is opened, and what may answer it."""

import contextlib
import dataclasses

from atlas_jax.online.calls.record import Record
from atlas_jax.online.search import opening
from tests.online import small_world


@contextlib.contextmanager
def opened(folder, url, **changes):
  config = small_world.config(folder, url, **changes)
  sets = opening.chosen_problems(config)
  with (
    Record() as record,
    opening.opened(config, folder / "run", {}, sets, record, {}) as run,
  ):
    yield run


def better(run):
  return dataclasses.replace(run.config.prompts, teacher=small_world.GOOD)


def broken_for(question: str, start: str):
  """The scripted answers, but one role fails for one question."""
  from aiohttp import web

  def answer(messages):
    prompt = messages[0]["content"]
    if prompt.startswith(start) and question in prompt:
      return web.Response(status=500)
    return small_world.answer(messages)

  return answer
