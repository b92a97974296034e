"""An agent whose every attempt is reserved, recorded and charged.

An agent does not say what a call costs. `dollars_per_call` does, for the cap
on dollars; tokens are counted as far as the agent tells them.
"""

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Mapping

from atlas_jax.online.agents import asking
from atlas_jax.online.agents.build import open_agent
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.calls import asks
from atlas_jax.online.calls import record as record_lib
from atlas_jax.online.calls.calls import ModelRefused, Reply
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.record import Record
from atlas_jax.online.calls.spend import Amount, picodollars


class RecordedAgent:
  """See calls.Agent. Equal asks of one replicate are made once.

  The agent samples by itself: a seed is not part of what is asked.
  """

  def __init__(
    self,
    agent: asking.AskedAgent,
    *,
    retries: int,
    concurrency: int,
    ledger: Ledger,
    record: Record,
    dollars_per_call: float | None,
  ):
    self.name = agent.name
    self._agent = agent
    self._retries = retries
    self._slots = asyncio.Semaphore(concurrency)
    self._refused: str | None = None
    self._ledger = ledger
    self._record = record
    self._pico = (
      None if dollars_per_call is None else picodollars(dollars_per_call)
    )

  async def ask(
    self, prompt: str, *, role: str, seed: int | None, replicate: int
  ) -> Reply:
    """One answer, from the record where it is known.

    Raises:
      ModelRefused: no ask of this agent can succeed.
    """
    del seed
    request = {
      "agent": self._agent.fingerprint,
      "prompt": prompt,
      "replicate": replicate,
    }
    text = json.dumps(request, sort_keys=True)
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    async def work(past: tuple[record_lib.Attempt, ...]) -> Reply:
      made = list(past)
      # After a killed process the count goes on. Where all attempts failed
      # and the record forgets that, it begins anew.
      tried = sum(a.status != "lost" for a in past) % (self._retries + 1)
      for number in range(tried, self._retries + 1):
        last = number == self._retries
        async with self._slots:
          if self._refused is None:
            told, done = await self._attempt(key, role, request, prompt, last)
        if self._refused is not None:
          raise ModelRefused(self._refused)
        made.append(done)
        if done.final:
          break
        await asyncio.sleep(asking.pause_s(told, key, number))
      return record_lib.reply_of(made, cached=False)

    return await asks.answered(self._ledger, self._record, key, work)

  async def _attempt(
    self, key, role, request, prompt, last
  ) -> tuple[asking.Attempt, record_lib.Attempt]:
    bound = Amount(1, 0, self._pico or 0)
    told = None

    async def send() -> record_lib.Attempt:
      nonlocal told
      told = await self._agent.attempt(prompt)
      reply = told.reply
      late = reply.status == "timeout"
      tokens = (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)
      return record_lib.Attempt(
        role=role,
        model=self.name,
        status=reply.status,
        final=(last or not told.transient) and told.hopeless is None,
        bound=bound,
        # Nobody knows what was paid for one that was cut off.
        cost=None if late else dataclasses.replace(bound, tokens=tokens),
        priced=self._pico is not None,
        text=reply.text,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        seconds=reply.seconds,
        error=reply.error,
      )

    done = await asks.attempted(
      self._ledger,
      self._record,
      key=key,
      role=role,
      model=self.name,
      request=request,
      bound=bound,
      send=send,
    )
    if told.hopeless is not None:
      self._refused = (
        f"the agent {self.name} {told.hopeless}; nothing more is asked of it."
        f" It said: {done.error}"
      )
    return told, done

  async def aclose(self) -> None:
    await self._agent.aclose()


def open_recorded_agent(
  config: AgentConfig,
  *,
  where: str,
  environ: Mapping[str, str],
  ledger: Ledger,
  record: Record,
  dollars_per_call: float | None,
) -> RecordedAgent:
  """Opens an agent; nothing is sent.

  Raises:
    ConfigError: as open_agent.
  """
  return RecordedAgent(
    open_agent(config, where=where, environ=environ),
    retries=config.retries,
    concurrency=config.concurrency,
    ledger=ledger,
    record=record,
    dollars_per_call=dollars_per_call,
  )
