"""Opens an agent from a dict of its config keys, and asks it."""

import asyncio
import os
import pathlib
import sys

from atlas_jax.online.agents import config as agent_config
from atlas_jax.online.agents.build import open_agent
from atlas_jax.online.calls.calls import Request
from atlas_jax.online.calls.ledger import Caps, Ledger
from tests import processes
from tests.online.agents.serving import Serving

KINDS = {
  "http": agent_config.HttpAgentConfig,
  "python": agent_config.PythonAgentConfig,
  "cli": agent_config.CliAgentConfig,
  "responses": agent_config.ResponsesAgentConfig,
  "agents_sdk": agent_config.AgentsSdkConfig,
}


def configured(kind: str, keys: dict, **common) -> agent_config.AgentConfig:
  common = {"timeout_s": 120.0, "retries": 0, "concurrency": 4} | common
  return agent_config.AgentConfig(
    kind=kind, **common, **{kind: KINDS[kind](**keys)}
  )


def opened(
  kind: str, keys: dict, *, environ=None, ledger=None, dollars=None, **common
):
  return open_agent(
    configured(kind, keys, **common),
    where="config",
    environ=os.environ if environ is None else environ,
    ledger=ledger,
    dollars_per_call=dollars,
  )


def tries(kind: str, keys: dict, prompt: str, **how):
  """(reply, how often the agent was asked for it)."""
  ledger = Ledger(Caps())
  reply = ask(opened(kind, keys, ledger=ledger, **how), prompt)
  return reply, ledger.spent.calls + ledger.lost.calls


def question(prompt: str, **how) -> Request:
  return Request("agent_check", prompt, **how)


def ask(agent, *prompts: str):
  """The reply, or with several prompts all replies of asking them at once."""

  async def run():
    try:
      return await asyncio.gather(
        *(agent.ask(question(p, replicate=i)) for i, p in enumerate(prompts))
      )
    finally:
      await agent.aclose()

  replies = asyncio.run(run())
  return replies[0] if len(prompts) == 1 else replies


def http_agent(url: str, **keys) -> dict:
  """The keys of an agent behind HTTP; the prompt is `q` of the body."""
  return {"url": url, "body": {"q": "{prompt}"}} | keys


def by_http(answer, /, *, common=None, **keys):
  """The reply of an agent behind HTTP that answers so."""
  with Serving(answer if callable(answer) else lambda _: answer) as server:
    return ask(
      opened("http", http_agent(server.url, **keys), **common or {}), "q"
    )


def by_command(code: str, *, common=None, **keys):
  """The reply of a command of Python."""
  keys = {"argv": (sys.executable, "-c", code)} | keys
  return ask(opened("cli", keys, **common or {}), "q")


def both_end(path: pathlib.Path) -> bool:
  """Whether both processes whose pids the file holds end soon."""
  pids = [int(pid) for pid in path.read_text().split()]
  assert len(pids) == 2
  return processes.all_end(pids)
