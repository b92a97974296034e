"""Every way to ask over HTTP, with a key."""

from tests.online.agents.asked import ask as ask_agent
from tests.online.agents.asked import http_agent, opened
from tests.online.agents.sdk import sdk_agent
from tests.online.opened import Run, ask, needs, request

KEY = "sk-0123456789abcdef"
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
  sends, content = {"X-Api-Key": "${K}"}, "choices[0].message.content"
  of_kind = {
    "http": http_agent(f"{url}/ask", headers=sends, answer=content),
    "responses": {"api_key_env": "K", "model": "m", "base_url": url},
    "agents_sdk": sdk_agent(url, api_key_env="K"),
  }
  keys = of_kind[kind] | keys
  return ask_agent(opened(kind, keys, environ={"K": KEY}, **common), "PROMPT")


def own(kind, url, **common):
  """The reply of a model or an agent that our own client asks."""
  if kind == "url":
    return chat("url", url, **common)
  return agent(kind, url, common=common)
