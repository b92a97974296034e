"""An agent on the account of a run."""

from collections.abc import Mapping

from atlas_jax.online.agents.asking import AskedAgent
from atlas_jax.online.agents.build import open_agent
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.calls.asker import Asker
from atlas_jax.online.calls.calls import Answer, CallFailed, Request
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.limits import Limits
from atlas_jax.online.calls.pricing import CallPrice
from atlas_jax.online.calls.record import Record


class _Carried:
  """An agent as a transport."""

  repeats = True

  def __init__(self, agent: AskedAgent):
    self.target = agent.name
    self._agent = agent

  async def send(self, request: Request) -> Answer:
    attempt = await self._agent.attempt(request.prompt)
    reply = attempt.reply
    if reply.status not in ("ok", "truncated"):
      raise CallFailed(
        reply.error,
        status=reply.status,
        code=401 if attempt.hopeless else None,
        again=attempt.transient,
        retry_after=attempt.retry_after_s,
      )
    return Answer(
      reply.text,
      "stop" if reply.ok else "length",
      reply.prompt_tokens,
      reply.completion_tokens,
      said=attempt.said,
      read=attempt.read,
    )

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
) -> Asker:
  """Opens an agent; nothing is sent.

  Raises:
    ConfigError: as open_agent.
  """
  agent = open_agent(config, where=where, environ=environ)
  limits = Limits()
  limits.tighten(config.concurrency)
  return Asker(
    _Carried(agent),
    name=agent.name,
    where=where,
    identity={"agent": agent.fingerprint},
    price=CallPrice(dollars_per_call),
    retries=config.retries,
    is_agent=True,
    ledger=ledger,
    record=record,
    limits=limits,
  )
