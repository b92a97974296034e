"""Every way to ask over HTTP, at servers that want its key or its memory."""

import tracemalloc

import pytest

from atlas_jax.config import ConfigError
from tests.hostile_server import (
  REDIRECTS,
  Hostile,
  bomb,
  endless,
  redirect,
)
from tests.online.agents.asked import ask as ask_agent
from tests.online.agents.asked import opened
from tests.online.agents.sdk import sdk_agent, sdk_missing
from tests.online.calls.ways import KEY, OWN, agent, chat, own
from tests.online.opened import needs

BOUND = 1 << 20
MODELS = (
  *("openai/gpt-4o", "hosted_vllm/m", "azure/gpt-4o", "mistral/m"),
  *("anthropic/claude-3-5-sonnet-20241022", "gemini/gemini-1.5-flash"),
  *("cohere_chat/command-r", "ollama_chat/m", "huggingface/a/m"),
)


@pytest.fixture(autouse=True)
def versions(monkeypatch):
  monkeypatch.setenv("AZURE_API_VERSION", "2024-06-01")


COMMON = {"retries": 3, "max_response_bytes": BOUND}
WAYS = [
  *(pytest.param(lambda u, k=k: own(k, u, **COMMON), id=k) for k in OWN),
  *(
    pytest.param(lambda u, m=m: chat("litellm", u, m, **COMMON), id=m)
    for m in MODELS
  ),
  *(
    pytest.param(
      lambda u, api=api: agent("agents_sdk", u, common=COMMON, api=api),
      id=f"agents_sdk {api}",
      marks=sdk_missing,
    )
    for api in ("responses", "chat_completions")
  ),
]
EVERY_WAY = pytest.mark.parametrize("send", WAYS)


@EVERY_WAY
@pytest.mark.parametrize("status", REDIRECTS)
def test_a_redirect_gets_neither_key_nor_prompt(send, status):
  with Hostile() as thief, Hostile(redirect(status, thief.url)) as server:
    reply = send(server.url)
  assert (reply.status, reply.text) == ("error", None)
  assert "PROMPT" in server.text and KEY in server.text
  # One request, so it was not tried again.
  assert len(server.requests) == 1 and not thief.requests, thief.text
  error = reply.error
  assert server.url in error and f"{thief.url}/" in error
  assert "not followed" in error and "\n" not in error and KEY not in error


@EVERY_WAY
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("body", [endless, bomb])
def test_too_much_is_neither_read_nor_asked_for_again(
  send, body, status, request
):
  ours = request.node.callspec.id.split("-")[-1] in OWN
  if ours:  # others import a library meanwhile
    tracemalloc.start()
  try:
    with Hostile(body(status)) as server:
      reply = send(server.url)
    assert not ours or tracemalloc.get_traced_memory()[1] < 16 * BOUND
  finally:
    tracemalloc.stop()
  assert (reply.status, reply.text) == ("error", None)
  assert f"more than {BOUND} bytes came" in reply.error
  assert len(server.requests) == 1 and server.sent < 32 << 20


def test_a_provider_with_a_client_that_follows_is_refused():
  with pytest.raises(ConfigError, match=r"aiohttp_openai.*openai/NAME"):
    chat("litellm", "http://127.0.0.1:1", "aiohttp_openai/m")


def test_a_client_that_blocks_does_not_follow_either():
  needs("litellm")
  from atlas_jax.online.calls import litellm_calls

  library = litellm_calls._library()
  with Hostile() as thief, Hostile(redirect(307, thief.url)) as server:
    for model in ("openai/m", "anthropic/claude-3-5-sonnet-20241022"):
      with pytest.raises(Exception, match=r"litellm\."):
        library.completion(
          model=model,
          messages=[{"role": "user", "content": "PROMPT"}],
          api_base=server.url,
          api_key=KEY,
          max_retries=0,
        )
  assert server.requests and not thief.requests


@sdk_missing
def test_the_sdks_own_client_does_not_follow_either(monkeypatch):
  with Hostile() as thief, Hostile(redirect(307, thief.url)) as server:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    keys = {"target": sdk_agent("")["target"]}
    one = opened("agents_sdk", keys, max_response_bytes=BOUND)
    reply = ask_agent(one, "PROMPT")
  assert "not followed" in reply.error
  assert server.requests and not thief.requests
