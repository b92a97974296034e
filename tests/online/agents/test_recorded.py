"""Agents under the ledger and the record: retries, resume, and what is lost."""

import asyncio
import time

from aiohttp import web

from atlas_jax.online.agents.build import open_agent
from atlas_jax.online.agents.config import AgentConfig, HttpAgentConfig
from atlas_jax.online.calls.ledger import Caps
from atlas_jax.online.calls.record import Record
from tests.online.agents.serving import Serving
from tests.online.opened import request


def asked(server, record, *, retries=2, timeout_s=60.0):
  """(the reply to one question, the ledger's ledger after it)."""
  ledger = record.ledger(Caps())
  agent = open_agent(
    AgentConfig(
      kind="http",
      timeout_s=timeout_s,
      retries=retries,
      http=HttpAgentConfig(url=server.url, body={"q": "{prompt}"}),
    ),
    where="config.agent",
    environ={},
    ledger=ledger,
    record=record,
    dollars_per_call=0.5,
  )

  async def main():
    try:
      return await agent.ask(request("q"))
    finally:
      await agent.aclose()

  return asyncio.run(main()), ledger


def busy(after="0"):
  return web.Response(status=503, headers={"Retry-After": after})


def test_retry_after_is_obeyed():
  arrivals = []

  def answer(_):
    arrivals.append(time.monotonic())
    return busy("1.2") if len(arrivals) == 1 else "x"

  with Serving(answer) as server, Record() as record:
    reply, _ = asked(server, record)
  assert (reply.status, reply.attempts) == ("ok", 2)
  assert arrivals[1] - arrivals[0] > 1.1  # without it: 0.25 to 0.5


def test_an_attempt_that_was_cut_off_is_lost_at_its_bound():
  async def answer(_):
    await asyncio.sleep(30)

  with Serving(answer) as server, Record() as record:
    reply, spent = asked(server, record, retries=1, timeout_s=0.3)
    (line,) = record.costs()
  assert (reply.status, reply.attempts) == ("timeout", 2)
  assert (spent.calls, spent.dollars) == (0, 0)
  assert (spent.lost.calls, spent.lost.dollars) == (2, 1.0)
  assert (line["lost_calls"], line["lost_dollars"]) == (2, 1.0)
