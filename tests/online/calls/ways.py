"""Every way to ask over HTTP, with a key."""

from tests.online.agents.asked import ask as ask_agent
from tests.online.agents.asked import opened
from tests.online.opened import Run, ask, needs, request

KEY = "sk-0123456789abcdef"
AGENTS = {
  "http": {
    "headers": {"X-Api-Key": "${K}"},
    "body": {"q": "{prompt}"},
    "answer": "choices[0].message.content",
  },
  "responses": {"api_key_env": "K", "model": "m"},
  "agents_sdk": {
    "api_key_env": "K",
    "target": "tests/online/agents/sdk_agents.py:plain",
  },
}
OWN = ("url", "http", "responses")  # by our own client


def chat(kind, url, model="m", **config):
  """The reply of a model."""
  if kind == "litellm":
    needs("litellm")
  config |= {"kind": kind, "model": model, "url": url, "api_key_env": "K"}
  opened_model = Run(environ={"K": KEY}).open(timeout_s=60.0, **config)
  (reply,) = ask(opened_model, request("PROMPT"))
  return reply


def agent(kind, url, *, common, **keys):
  """The reply of an agent."""
  where = {"url": f"{url}/ask"} if kind == "http" else {"base_url": url}
  keys = AGENTS[kind] | where | keys
  return ask_agent(opened(kind, keys, environ={"K": KEY}, **common), "PROMPT")


def own(kind, url, **common):
  """The reply of a model or an agent that our own client asks."""
  if kind == "url":
    return chat("url", url, **common)
  return agent(kind, url, common=common)
