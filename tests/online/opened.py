"""What the tests of models share: a run, its models, and questions."""

import asyncio
import importlib.util

import pytest

from atlas_jax.online.calls.calls import Request
from atlas_jax.online.calls.ledger import Caps
from atlas_jax.online.calls.model_config import ChatModelConfig
from atlas_jax.online.calls.models import open_model
from atlas_jax.online.calls.record import Record


def request(text="hi you", *, role="r", max_tokens=9, replicate=0, seed=None):
  return Request(role, text, max_tokens, 0.0, seed, replicate)


class Run:
  """A ledger, a record and the models that a test opens."""

  def __init__(self, caps=Caps(), environ=None):  # noqa: B008 it is frozen
    self.record = Record()
    self.ledger = self.record.ledger(caps)
    self.environ = environ or {}

  def open(self, **config):
    return open_model(
      ChatModelConfig(**config),
      where="config.student",
      environ=self.environ,
      ledger=self.ledger,
      record=self.record,
    )


def needs(package):
  """Skips where it is not installed.

  It is not imported: LiteLLM reads its settings from the environment meanwhile.
  """
  if importlib.util.find_spec(package) is None:
    pytest.skip(f"needs {package}, of the extras `online` and `agents`")


def at(run, kind, stub, **config):
  """A model of kind url or litellm at a stub server."""
  if kind == "url":
    return run.open(url=stub.url, **config)
  needs(kind)
  return run.open(
    kind=kind, model="hosted_vllm/stub", url=stub.url + "/v1", **config
  )


BOTH_KINDS = pytest.mark.parametrize("kind", ["url", "litellm"])


def ask(model, *requests):
  async def main():
    try:
      return await asyncio.gather(
        *[model.ask(r) for r in requests], return_exceptions=True
      )
    finally:
      await model.aclose()

  return asyncio.run(main())
