"""Caps under 64 calls at a time and every fault, counted at the server."""

import asyncio
import random

import pytest

from atlas_jax.online.calls.ledger import BudgetSpent, Caps
from tests.online.opened import Run, request
from tests.online.stub_server import Faults, StubServer, words

WANTED = 150
LENGTHS = [random.Random(i).randrange(1, 12) for i in range(WANTED)]


def answer(messages):
  return " ".join("w" * LENGTHS[int(messages[0]["content"].split()[-1])])


def load(caps, faults=None):
  """Asks for more than the caps allow: (ends, ledger, calls at the server)."""
  run = Run(caps)
  with StubServer(answer, faults=faults, latency_s=0.01) as stub:
    model = run.open(
      url=stub.url,
      model="stub",
      concurrency=64,
      timeout_s=5.0,
      retries=8,
      price_in=1000.0,
      price_out=2000.0,
    )

    async def main():
      try:
        return await asyncio.gather(
          *[model.ask(request(f"say {i}")) for i in range(WANTED)],
          return_exceptions=True,
        )
      finally:
        await model.aclose()

    ends = asyncio.run(main())
    return ends, run.ledger, list(stub.calls)


KINDS = ("429", "500", "empty", "null", "truncated", "broken", "reset")


@pytest.mark.parametrize("calls", [1, 64, 100])
@pytest.mark.parametrize("faults", [None, Faults(5, 0.4, KINDS)])
def test_calls(calls, faults):
  ends, ledger, sent = load(Caps(calls=calls), faults)
  assert len(sent) == calls == ledger.spent.calls + ledger.lost.calls
  answered = [e for e in ends if not isinstance(e, BaseException)]
  assert {r.status for r in answered} <= {"ok", "truncated"}
  assert {type(e) for e in ends} - {type(r) for r in answered} == {BudgetSpent}


def used(calls) -> tuple[int, float]:
  """(tokens, dollars) that the server gave, worked out from its answers."""
  prompts = sum(words(c.body["messages"]) for c in calls)
  spoken = sum(min(len(answer(c.body["messages"]).split()), 9) for c in calls)
  return prompts + spoken, (prompts * 1000 + spoken * 2000) / 1e6


@pytest.mark.parametrize("caps", [Caps(tokens=700), Caps(dollars=1.1)])
def test_tokens_and_dollars(caps):
  # A bound is 128 + 12 + 8 + about 6 bytes + 9 = 163 tokens, or $0.172.
  ends, ledger, sent = load(caps)
  tokens, dollars = used(sent)
  assert ledger.spent.tokens == tokens
  assert ledger.spent.dollars == pytest.approx(dollars)
  if caps.tokens is not None:
    assert 700 - 163 < tokens <= 700
  else:
    assert 1.1 - 0.173 < dollars <= 1.1
  assert sum(isinstance(e, BudgetSpent) for e in ends) == WANTED - len(sent)
