"""HTTP_PROXY and NO_PROXY, alike for every kind of model and agent."""

import asyncio
import itertools
import json

import aiohttp
import pytest

from atlas_jax.online.calls.calls import Reply
from atlas_jax.online.calls.chat_json import answer_of
from atlas_jax.online.production.config import (
  Keys,
  ProxyConfig,
  UpstreamConfig,
)
from atlas_jax.online.production.endpoint import Endpoint
from atlas_jax.serving import http
from tests.hostile_server import Hostile, said
from tests.online.agents.sdk import chat_reply, response_reply
from tests.online.calls.ways import OWN, chat, own

# LiteLLM remembers what it found for a name.
HOSTS = (f"server-{i}.test" for i in itertools.count())


def answered(request):
  of = response_reply if "responses" in request.path else chat_reply
  return said(of("42"))(request)


def endpoint(url):
  """The upstream of the proxy in production, asked for its state."""
  config = ProxyConfig(upstream=UpstreamConfig(url=url + "/v1"))

  async def main():
    async with http.open_session() as session:
      upstream = Endpoint(session, "upstream", config, Keys())
      async with upstream.post({"messages": []}, None) as response:
        return answer_of(json.loads(await upstream.read(response)))

  try:
    return asyncio.run(main())
  except aiohttp.ClientError as error:
    return Reply("error", error=str(error))


KINDS = {
  **{k: lambda u, k=k: own(k, u, retries=0) for k in OWN},
  "litellm": lambda u: chat("litellm", u + "/v1", "hosted_vllm/m", retries=0),
  "production": endpoint,
}


@pytest.fixture
def proxy(monkeypatch):
  for name in ("ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.lower(), raising=False)
  with Hostile(answered) as server:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    yield server


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_is_asked_for_servers_elsewhere(kind, proxy):
  host = next(HOSTS)
  reply = KINDS[kind](f"http://{host}")
  assert reply.text == "42", reply
  assert len(proxy.requests) == 1 and f"http://{host}/" in proxy.text


@pytest.mark.parametrize("kind", KINDS)
def test_no_proxy_is_asked_for_what_no_proxy_names(kind, proxy, monkeypatch):
  host = next(HOSTS)
  for name in ("NO_PROXY", "no_proxy"):
    monkeypatch.setenv(name, f"elsewhere.test,{host}")
  assert KINDS[kind](f"http://{host}").status == "error"
  assert not proxy.requests


# LiteLLM's transport asks by the host alone.
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"litellm"}))
@pytest.mark.parametrize(("port", "asked"), [(81, False), (82, True)])
def test_no_proxy_may_name_a_port(kind, port, asked, proxy, monkeypatch):
  host = next(HOSTS)
  for name in ("NO_PROXY", "no_proxy"):
    monkeypatch.setenv(name, f"{host}:{port}")
  assert (KINDS[kind](f"http://{host}:81").text == "42") == asked
  assert bool(proxy.requests) == asked


@pytest.mark.parametrize("kind", KINDS)
def test_no_proxy_is_asked_for_this_machine(kind, proxy):
  with Hostile(answered) as server:
    assert KINDS[kind](server.url).text == "42"
  assert len(server.requests) == 1 and not proxy.requests
