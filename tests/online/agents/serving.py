"""A tiny HTTP server in a thread, for agents that are asked over HTTP."""

import asyncio
import inspect
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Seen:
  """One request that arrived."""

  method: str
  path: str
  query: dict
  headers: Mapping[str, str]  # names in any case
  body: bytes

  @property
  def json(self):
    return json.loads(self.body)


@dataclass
class Serving:
  """Answers every request with what `answer(seen)` gives.

  answer returns JSON values, or an aiohttp web.Response; it may be async.
  """

  answer: object
  seen: list[Seen] = field(default_factory=list)
  most_at_once: int = 0

  def __enter__(self):
    started = threading.Event()
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(
      target=lambda: self._loop.run_until_complete(self._serve(started)),
      daemon=True,
    )
    self._thread.start()
    assert started.wait(10)
    return self

  def __exit__(self, *exc):
    self._loop.call_soon_threadsafe(self._stop.set)
    self._thread.join(10)
    self._loop.close()

  async def _serve(self, started):
    self._stop, self._now = asyncio.Event(), 0
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", self._reply)
    # Its own log would show what it was sent.
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    started.set()
    await self._stop.wait()
    await runner.cleanup()

  async def _reply(self, request):
    seen = Seen(
      request.method,
      request.path,
      dict(request.query),
      request.headers,
      await request.read(),
    )
    self.seen.append(seen)
    self._now += 1
    self.most_at_once = max(self.most_at_once, self._now)
    try:
      found = self.answer(seen)
      if inspect.isawaitable(found):
        found = await found
    finally:
      self._now -= 1
    if isinstance(found, web.StreamResponse):
      return found
    return web.json_response(found)
