"""A proxy between a stub upstream and a stub teacher, and how to read it."""

import contextlib
import json
import re

import aiohttp
import openai
from aiohttp import web

from atlas_jax.config import PromptsConfig
from atlas_jax.online.production.app import serving
from atlas_jax.online.production.config import (
  ChatServerConfig,
  Keys,
  ProxyConfig,
  UpstreamConfig,
)
from tests.online.stub_server import StubServer

PROMPTS = {
  "student_baseline": "ALONE {question}",
  "student_probe": "PROBE {question}",
  "teacher": "TEACH {question} FROM {probe}",
  "student_taught": "GUIDED {question} BY {teaching}",
}
ASK = [{"role": "user", "content": "1+1?"}]
TEACHING = "private words <teaching>count twice</teaching>"


def word_of(messages) -> str:
  """The first word of what is asked: PROBE, GUIDED, ALONE or TEACH."""
  return messages[-1]["content"].split()[0]


def upstream(answer=None, **kwargs) -> StubServer:
  """A student that answers with the first word that it was asked by."""
  return StubServer(answer or (lambda m: f"re {word_of(m)}"), **kwargs)


def by_word(**answers) -> StubServer:
  """An upstream that answers each first word so, and others as `upstream`.

  An answer that is callable makes one.
  """

  def answer(messages):
    found = answers.get(word := word_of(messages), f"re {word}")
    return found() if callable(found) else found

  return upstream(answer)


def teacher(text=TEACHING, **kwargs) -> StubServer:
  return StubServer(lambda messages: text, **kwargs)


def refusal(status: int, message="no", **kwargs) -> web.Response:
  error = {"error": {"message": message}}
  return web.json_response(error, status=status, **kwargs)


@contextlib.asynccontextmanager
async def served(app: web.Application, name: str = "127.0.0.1"):
  """Serves the application of a stub; yields its address."""
  runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
  await runner.setup()
  await web.TCPSite(runner, "127.0.0.1", 0).start()
  try:
    yield f"http://{name}:{runner.addresses[0][1]}"
  finally:
    await runner.cleanup()


class Proxied:
  """A running proxy at `url`, a stock client, and the servers behind it."""

  def __init__(self, url: str, session, key: str, up, teach):
    self.url, self.session, self.up, self.teach = url, session, up, teach
    self.client = openai.AsyncOpenAI(
      base_url=f"{url}/v1", api_key=key, max_retries=0
    )

  async def ask(self, question="1+1?", **kwargs) -> tuple[str, str]:
    """(what x-atlas-teaching says, text) of a plain request."""
    messages = [{"role": "user", "content": question}]
    raw = await self.client.chat.completions.with_raw_response.create(
      **{"model": "any", "messages": messages, **kwargs}
    )
    text = raw.parse().choices[0].message.content
    return raw.headers["x-atlas-teaching"], text

  async def stream(self) -> tuple[str, list[str]]:
    """(what x-atlas-teaching says, pieces) of a stream."""
    stream = await self.client.chat.completions.create(
      model="any", messages=ASK, stream=True
    )
    pieces = [c.choices[0].delta.content async for c in stream if c.choices]
    how = stream.response.headers["x-atlas-teaching"]
    return how, [piece for piece in pieces if piece]

  async def post(self, data=None, **changes) -> tuple[int, str, dict]:
    """(status, text, headers) of a chat as JSON, or of these bytes."""
    data = data or json.dumps({"messages": ASK, **changes}).encode()
    url, kind = f"{self.url}/v1/chat/completions", "application/json"
    async with self.session.post(
      url, data=data, headers={"Content-Type": kind}
    ) as r:
      return r.status, await r.text(), r.headers

  async def get(self, path: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {self.client.api_key}"}
    async with self.session.get(self.url + path, headers=headers) as response:
      return response.status, await response.text()

  async def health(self) -> dict:
    return json.loads((await self.get("/health"))[1])

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


@contextlib.asynccontextmanager
async def proxy(
  up=None,
  teach=None,
  *,
  keys=Keys(),  # noqa: B008 it is frozen
  client_key="unused",
  sent=None,
  teaches=None,
  **changes,
):
  """A Proxied behind an upstream and a teacher.

  Args:
    up, teach: stubs that are entered here, applications, or addresses.
    keys: of the proxy.
    client_key: what the client shows.
    sent, teaches: keys of the upstream's and of the teacher's config.
    **changes: keys of the config.
  """
  async with contextlib.AsyncExitStack() as stack:

    async def address(server):
      if isinstance(server, web.Application):
        server = await stack.enter_async_context(served(server))
      elif not isinstance(server, str):
        server = stack.enter_context(server).url
      return server + "/v1"

    up, teach = up or upstream(), teach or teacher()
    own = {"url": await address(up), "model": "stub", **(sent or {})}
    other = {"url": await address(teach), "model": "stub", **(teaches or {})}
    defaults = {
      "port": 0,
      "drain_s": 1.0,
      "prompts": PromptsConfig(**PROMPTS),
      "upstream": UpstreamConfig(**own),
      "teacher": ChatServerConfig(**other),
    }
    server = await stack.enter_async_context(
      serving(ProxyConfig(**{**defaults, **changes}), keys)
    )
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    session = await stack.enter_async_context(aiohttp.ClientSession())
    proxied = Proxied(url, session, client_key, up, teach)
    stack.push_async_callback(proxied.client.close)
    yield proxied


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


def event(word: str, name="content") -> dict:
  choice = {"index": 0, "delta": {name: word}}
  return {"object": "chat.completion.chunk", "choices": [choice]}


async def write_word(response, word: str) -> None:
  await response.write(f"data: {json.dumps(event(word))}\n\n".encode())


def application(chat, models=None) -> web.Application:
  """A server whose chat completions are `await chat(request)`."""
  app = web.Application()
  app.router.add_post("/v1/chat/completions", chat)
  app.router.add_get("/v1/models", models or chat)
  return app


def working(chat) -> web.Application:
  """An upstream that has a plan; else `await chat(request, stream, word)`."""

  async def answer(request):
    body = await request.json()
    word = word_of(body["messages"])
    if word == "PROBE":
      return whole("plan")
    return await chat(request, body.get("stream", False), word)

  return application(answer)


def contents(stub: StubServer) -> list[str]:
  """The last message of each call, in the order of their arrival."""
  return [call.body["messages"][-1]["content"] for call in stub.calls]
