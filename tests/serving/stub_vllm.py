"""A server that answers as a test says, and our client of it."""

import asyncio
import contextlib
import socket

from aiohttp import web

from atlas_jax.serving.client import Client, Sampling, ServerError

SAMPLING = Sampling(max_tokens=4, temperature=1.0)


def choice(index=0, ids=(7, 8), logprobs=(-0.5, -0.25), versions=None):
  return {
    "index": index,
    "token_ids": list(ids),
    "logprobs": {"content": [{"logprob": x} for x in logprobs]},
    "finish_reason": "length",
    "weight_versions": versions or [{"version": "3", "start": 0, "end": 2}],
  }


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


@contextlib.asynccontextmanager
async def stub(handler, pages=None):
  """Serves POST /inference/v1/generate by `handler`; yields the base URL.

  pages: path -> the handler of a GET.
  """
  app = web.Application()
  app.router.add_post("/inference/v1/generate", handler)
  for path, page in (pages or {}).items():
    app.router.add_get(path, page)
  runner = web.AppRunner(app)
  await runner.setup()
  port = free_port()
  await web.TCPSite(runner, "127.0.0.1", port).start()
  try:
    yield f"http://127.0.0.1:{port}"
  finally:
    await runner.cleanup()


def unclosed(url, **changes):
  options = {
    "decode": lambda ids: "+".join(map(str, ids)),
    "timeout_s": 5,
    "retries": 2,
    "max_concurrency": 8,
    **changes,
  }
  return Client(url, **options)


def client(url, **changes):
  return contextlib.aclosing(unclosed(url, **changes))


def ask(answers, *, requests=1, **changes):
  """What `requests` calls return against a list of answers; and the bodies."""
  bodies, left = [], list(answers)

  async def handler(request):
    bodies.append(await request.json())
    answer = left.pop(0) if len(left) > 1 else left[0]
    if isinstance(answer, dict):
      return web.Response(**answer)
    return web.json_response({"choices": answer})

  async def main():
    async with stub(handler) as url, client(url, **changes) as c:
      return [
        await c.generate([1, 2], SAMPLING, cache_salt="s")
        for _ in range(requests)
      ]

  try:
    return asyncio.run(main()), bodies
  except ServerError as error:
    return error, bodies
