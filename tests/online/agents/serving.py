"""A tiny HTTP server in a thread, for agents that are asked over HTTP."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

from tests.online.stub_server import InThread


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
class Serving(InThread):
  """Answers every request with what `answer(seen)` gives.

  answer returns JSON values, or an aiohttp web.Response; it may be async.
  """

  answer: object
  seen: list[Seen] = field(default_factory=list)
  most_at_once: int = 0
  _now: int = 0

  def routes(self, router):
    router.add_route("*", "/{path:.*}", self._reply)

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
