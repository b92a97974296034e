"""A reflection model that says what a test scripts, and who asks it."""

import asyncio
from types import SimpleNamespace

from atlas_jax.config import PromptsConfig
from atlas_jax.online.calls.calls import Reply
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search.config import OnlineConfig, ReflectionConfig
from atlas_jax.online.search.files import Journal
from atlas_jax.online.search.reflection import Reflector

PROMPTS = PromptsConfig()


NOW = PROMPTS.teacher


GOOD = "Look at {question} and {probe}. Be brief."


RECORDS = [{"Question": "1+1", "Verdict": "Wrong with and without it."}]


class Loop:
  def run(self, work):
    return asyncio.run(work)


class Scripted:
  """A chat model that says one thing after another."""

  name = "scripted"

  def __init__(self, *replies):
    self.replies = list(replies)
    self.requests = []

  async def ask(self, request):
    self.requests.append(request)
    reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
    if isinstance(reply, Exception):
      raise reply
    return Reply("ok", text=reply) if isinstance(reply, str) else reply

  def prompt(self, i):
    return self.requests[i].prompt


def reflector(model, journal=None, **config):
  asked = SimpleNamespace(reflection=model, loop=Loop())
  return Reflector(
    asked,
    OnlineConfig(reflection=ReflectionConfig(**config)),
    journal or Journal(None, Record()),
  )


def ask(r, current=NOW):
  """The text that is proposed; None: none is of use."""
  return r.propose({"teacher": current}, "teacher", RECORDS)
