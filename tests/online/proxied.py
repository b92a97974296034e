"""A proxy between a stub upstream and a stub teacher, and how to read it."""

import asyncio
import contextlib
import json
import re

import aiohttp
import openai
from aiohttp import web

from atlas_jax.config import PromptsConfig
from atlas_jax.online.production.proxy.app import make_app
from atlas_jax.online.production.proxy.config import (
  ChatServerConfig,
  Keys,
  ProxyConfig,
  UpstreamConfig,
)
from atlas_jax.online.production.proxy.connections import listening
from tests.online.stub_server import StubServer

PROMPTS = PromptsConfig(
  student_baseline="ALONE {question}",
  student_probe="PROBE {question}",
  teacher="TEACH {question} FROM {probe}",
  student_taught="GUIDED {question} BY {teaching}",
)
NO_KEYS = Keys()
ASK = [{"role": "user", "content": "1+1?"}]
TEACHING = "private words <teaching>count twice</teaching>"


def upstream(answer=None, **kwargs) -> StubServer:
  """A student that answers with the first word that it was asked by."""
  return StubServer(
    answer or (lambda messages: "re " + messages[-1]["content"].split()[0]),
    **kwargs,
  )


def teacher(text=TEACHING, **kwargs) -> StubServer:
  return StubServer(lambda messages: text, **kwargs)


@contextlib.asynccontextmanager
async def serving(app: web.Application, name: str = "127.0.0.1"):
  """Serves the application of a stub; yields its address."""
  runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
  await runner.setup()
  await web.TCPSite(runner, "127.0.0.1", 0).start()
  try:
    yield f"http://{name}:{runner.addresses[0][1]}"
  finally:
    await runner.cleanup()


class Proxied:
  """A running proxy at `url`, and a stock client for it."""

  def __init__(self, url: str, session: aiohttp.ClientSession, key: str):
    self.url = url
    self.session = session
    self.client = openai.AsyncOpenAI(
      base_url=f"{url}/v1", api_key=key, max_retries=0
    )

  async def ask(self, question="1+1?", **kwargs) -> tuple[str, str]:
    """(what x-atlas-teaching says, text) of a plain request."""
    raw = await self.client.chat.completions.with_raw_response.create(
      **{
        "model": "any",
        "messages": [{"role": "user", "content": question}],
        **kwargs,
      }
    )
    text = raw.parse().choices[0].message.content
    return raw.headers["x-atlas-teaching"], text

  async def get(self, path: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {self.client.api_key}"}
    async with self.session.get(self.url + path, headers=headers) as response:
      return response.status, await response.text()

  async def counts(self) -> dict[str, int]:
    """Requests by outcome, without those that never happened."""
    _, text = await self.get("/metrics")
    found = re.findall(
      r'^atlas_proxy_requests_total\{outcome="(\w+)"\} (\S+)$', text, re.M
    )
    return {name: int(float(n)) for name, n in found if float(n)}

  async def metric(self, line: str) -> float:
    _, text = await self.get("/metrics")
    (value,) = re.findall(rf"^{re.escape(line)} (\S+)$", text, re.M)
    return float(value)


def run(
  test,
  up,
  teach,
  *,
  keys=NO_KEYS,
  client_key="unused",
  sent=None,
  teaches=None,
  **changes,
):
  """Runs `await test(proxied)` behind an upstream and a teacher.

  Args:
    test: a coroutine function.
    up, teach: stubs that are entered, applications, or addresses.
    keys: of the proxy.
    client_key: what the client shows.
    sent, teaches: keys of the upstream's and of the teacher's config.
    **changes: keys of the config.
  """

  async def main():
    async with contextlib.AsyncExitStack() as stack:

      async def address(server):
        if isinstance(server, web.Application):
          server = await stack.enter_async_context(serving(server))
        return (server if isinstance(server, str) else server.url) + "/v1"

      config = ProxyConfig(
        **{
          "port": 0,
          "drain_s": 1.0,
          "upstream": UpstreamConfig(
            **{"url": await address(up), "model": "stub", **(sent or {})}
          ),
          "teacher": ChatServerConfig(
            **{
              "url": await address(teach),
              "model": "stub",
              **(teaches or {}),
            }
          ),
          **changes,
        }
      )
      server = await stack.enter_async_context(
        listening(make_app(config, PROMPTS, keys), config)
      )
      url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
      session = await stack.enter_async_context(aiohttp.ClientSession())
      proxied = Proxied(url, session, client_key)
      stack.push_async_callback(proxied.client.close)
      return await test(proxied)

  return asyncio.run(main())


def whole(text: str) -> web.Response:
  """A chat completion of this text."""
  choice = {"message": {"content": text}, "finish_reason": "stop"}
  return web.json_response({"choices": [choice]})


async def begin_stream(request, headers=None) -> web.StreamResponse:
  """A response that takes pieces by `write_word`."""
  kind = {"Content-Type": "text/event-stream"}
  response = web.StreamResponse(headers=kind | (headers or {}))
  await response.prepare(request)
  return response


async def write_word(response, word: str) -> None:
  choice = {"index": 0, "delta": {"content": word}}
  chunk = {"object": "chat.completion.chunk", "choices": [choice]}
  await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


def application(chat) -> web.Application:
  """A server whose chat completions are `await chat(request)`."""
  app = web.Application()
  app.router.add_post("/v1/chat/completions", chat)
  return app


def contents(stub: StubServer) -> list[str]:
  """The last message of each call, in the order of their arrival."""
  return [call.body["messages"][-1]["content"] for call in stub.calls]
