"""Around a server (--middleware): who comes in, and its end with its engine.

1. GET /health comes in without a token.
2. All else needs `Authorization: Bearer TOKEN` once, with the token in the
   environment's VLLM_API_KEY; where that is not set, nobody comes in. vLLM's
   own check looks at a few prefixes only.
3. With the token come in the paths below; vLLM offers many more.
4. A server without a token ends at once if it listens beyond this machine.
"""

import asyncio
import hmac
import ipaddress
import logging
import os
import re

from starlette.responses import JSONResponse

from atlas_vllm import received

_PATHS = {
  *("/inference/v1/generate", "/v1/atlas/update", "/v1/atlas/weights"),
  *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models"),
  *("/metrics", "/version", "/docs", "/openapi.json"),
}
_PATTERN = re.compile(received.PATHS)  # of other paths that are offered
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
      engine, args = scope["app"].state.engine_client, scope["app"].state.args
      if not self._token and not _is_local(args):
        logging.critical("VLLM_API_KEY is not set, and --host is not loopback")
        os._exit(1)
      self._watching = asyncio.create_task(_watch(engine))
    elif (scope.get("method"), scope["path"]) != ("GET", "/health"):
      if not self._has_token(scope["headers"]):
        app = JSONResponse({"error": "the bearer token is missing"}, 401)
      elif scope["type"] != "http" or not _is_offered(scope["path"]):
        app = JSONResponse({"error": "not a path of this server"}, 404)
    await app(scope, receive, send)

  def _has_token(self, headers) -> bool:
    values = [value for name, value in headers if name == b"authorization"]
    scheme, _, given = b"".join(values[:1]).partition(b" ")
    is_bearer = len(values) == 1 and scheme.lower() == b"bearer"
    same = hmac.compare_digest(given, self._token)
    return bool(self._token) and is_bearer and same


def _is_local(args) -> bool:
  """Whether a server can be reached from its machine alone."""
  try:
    loopback = ipaddress.ip_address(args.host or "::").is_loopback
  except ValueError:  # a name
    loopback = args.host == "localhost"
  return loopback or args.uds is not None


def _is_offered(path: str) -> bool:
  return path in _PATHS or _PATTERN.fullmatch(path) is not None


async def _watch(engine) -> None:
  """Ends this process with its engine: vLLM's own may wait for it for ever."""
  # Not `errored`, which is true as well while vLLM ends an engine in order.
  while not engine.engine_core.resources.engine_dead:
    await asyncio.sleep(_WATCH_S)
  logging.critical("the engine is dead: this server ends now")
  await asyncio.sleep(_WATCH_S)  # answers that say so go out first
  os._exit(1)
