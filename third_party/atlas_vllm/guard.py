"""Around a server (--middleware): who comes in, and its end with its engine.

1. GET /health comes in without a token.
2. All else needs `Authorization: Bearer TOKEN` once, with the token in the
   environment's VLLM_API_KEY; where that is not set, nobody comes in. vLLM's
   own check looks at a few prefixes only.
3. With the token come in the paths below; vLLM offers many more.
"""

import asyncio
import hmac
import logging
import os

from starlette.responses import JSONResponse

_PATHS = {
  *("/inference/v1/generate", "/v1/atlas/update", "/v1/atlas/weights"),
  *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models"),
  *("/metrics", "/version", "/docs", "/openapi.json"),
}
_WATCH_S = 0.5


class Guard:
  """ASGI middleware around all of the server, mounted apps too."""

  def __init__(self, app):
    self._app = app
    self._token = os.environ.get("VLLM_API_KEY", "").encode()
    self._watching: asyncio.Task | None = None

  async def __call__(self, scope, receive, send):
    app = self._app
    if scope["type"] == "lifespan":
      engine = scope["app"].state.engine_client
      self._watching = asyncio.create_task(_watch(engine))
    elif (scope.get("method"), scope["path"]) != ("GET", "/health"):
      if not self._has_token(scope["headers"]):
        app = JSONResponse({"error": "the bearer token is missing"}, 401)
      elif scope["type"] != "http" or scope["path"] not in _PATHS:
        app = JSONResponse({"error": "not a path of this server"}, 404)
    await app(scope, receive, send)

  def _has_token(self, headers) -> bool:
    values = [value for name, value in headers if name == b"authorization"]
    scheme, _, given = b"".join(values[:1]).partition(b" ")
    is_bearer = len(values) == 1 and scheme.lower() == b"bearer"
    same = hmac.compare_digest(given, self._token)
    return bool(self._token) and is_bearer and same


async def _watch(engine) -> None:
  """Ends this process with its engine: vLLM's own may wait for it for ever."""
  # Not `errored`, which is true as well while vLLM ends an engine in order.
  while not engine.engine_core.resources.engine_dead:
    await asyncio.sleep(_WATCH_S)
  logging.critical("the engine is dead: this server ends now")
  await asyncio.sleep(_WATCH_S)  # answers that say so go out first
  os._exit(1)
