"""Sends one prompt to an agent and shows how its reply was read.

Of the request it shows what the config says, so a ${VARIABLE} by its name.

  python -m launchers.agent_check --config=configs/agents/http.py \
      --config.http.url=http://127.0.0.1:8000/v1/chat/completions

The exit status is 1 where the reply is no answer.
"""

import asyncio
import dataclasses
import json
import os
import sys

from absl import flags

from . import common, config_flag

common.define_flags(workdir=False)
_PROMPT = flags.DEFINE_string(
  "prompt",
  "What is 2 + 2? Give your final answer inside <solution></solution> tags.",
  "What the agent is asked.",
)


def main():
  from atlas_jax.config_tree import build
  from atlas_jax.online.agents.build import open_agent
  from atlas_jax.online.agents.config import AgentConfig

  config = build(AgentConfig, config_flag.tree())
  config = dataclasses.replace(config, retries=0)  # one probe
  agent = open_agent(config, where="config", environ=os.environ)
  keys = dataclasses.asdict(getattr(config, config.kind))
  print(f"agent    {agent.name}")
  print(f"config   {_indented(json.dumps(keys, indent=2, ensure_ascii=False))}")
  print(f"prompt   {_indented(_PROMPT.value)}", flush=True)
  if not asyncio.run(_probe(agent, _PROMPT.value)):
    sys.exit(1)


def _indented(text: str) -> str:
  """No line of `text` begins where a line of ours does."""
  return text.replace("\n", "\n         ")


async def _probe(agent, prompt: str) -> bool:
  """Whether one attempt, printed as it goes, gave an answer."""
  from atlas_jax.online.calls.calls import Request

  send, reads = agent.transport.send, []

  async def watched(request):
    answer = await send(request)
    reads.append(answer.read)
    return answer

  agent.transport.send = watched
  try:
    reply = await agent.ask(Request("agent_check", prompt))
  finally:
    await agent.aclose()
  print(f"status   {reply.status}")
  if reply.error is not None:
    again = agent.transport.repeats and reply.failed.again
    again = " (would be tried again)" if again else ""
    print(f"error    {_indented(reply.error)}{again}")
  for read in reads:
    print(f"read     {read}")
  if reply.text is not None:
    print(f"text     {_indented(reply.text)}")
  counts = (reply.prompt_tokens, reply.completion_tokens)
  asked, answer = ("unknown" if n is None else n for n in counts)
  print(f"tokens   prompt {asked}, completion {answer}")
  print(f"seconds  {reply.seconds:.2f}")
  return reply.ok


if __name__ == "__main__":
  common.launch(main)
