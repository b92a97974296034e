"""The HTTP side: POST /v1/chat/completions, GET /v1/models, /health, /metrics.

What one chat completion goes through is in answering.py. Nothing of what is
asked or answered is logged.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Mapping

import aiohttp
from aiohttp import web

from atlas_jax.config import ConfigError, PromptsConfig
from atlas_jax.online.outcomes import place
from atlas_jax.online.proxy import errors
from atlas_jax.online.proxy.answering import Answering
from atlas_jax.online.proxy.bodies import Bodies
from atlas_jax.online.proxy.breaker import Breaker
from atlas_jax.online.proxy.config import (
  Keys,
  ProxyConfig,
  check,
  read_keys,
  read_prompts,
)
from atlas_jax.online.proxy.counters import Counters
from atlas_jax.online.proxy.endpoint import Endpoint, open_session
from atlas_jax.teaching.prompts import Prompts

log = logging.getLogger(__name__)


def serve(config: ProxyConfig, environ: Mapping[str, str]) -> None:
  """Serves until SIGTERM or Ctrl-C, then lets open requests end.

  Args:
    config: checked here.
    environ: holds the keys that the config names.

  Raises:
    ConfigError, PromptError: the config cannot work, or its port is not free.
  """
  check(config)
  app = make_app(config, read_prompts(config), read_keys(config, environ))
  log.info(
    "http://%s:%d/v1 puts %s before %s",
    *(config.host, config.port, config.teacher.url, config.upstream.url),
  )
  try:
    web.run_app(
      app,
      host=config.host,
      port=config.port,
      shutdown_timeout=config.drain_s,
      handler_cancellation=True,
      access_log=None,
      print=None,
    )
  except OSError as error:
    raise ConfigError(
      f"config.host={config.host}, config.port={config.port}: {error}"
    ) from error


def make_app(
  config: ProxyConfig, prompts: PromptsConfig, keys: Keys
) -> web.Application:
  """The application, to be run with handler_cancellation=True.

  Without that a client that goes away does not end the upstream's work.
  """
  proxy = _Proxy(config, Prompts(prompts), keys)
  app = web.Application()
  app.cleanup_ctx.append(proxy.connected)
  app.router.add_post("/v1/chat/completions", proxy.chat)
  app.router.add_get("/v1/models", proxy.models)
  app.router.add_get("/health", proxy.health)
  app.router.add_get("/metrics", proxy.metrics)
  app.router.add_route("*", "/{path:.*}", proxy.unknown)
  return app


class _Proxy:
  def __init__(self, config: ProxyConfig, prompts: Prompts, keys: Keys):
    self._config = config
    self._prompts = prompts
    self._keys = keys
    self._breaker = Breaker(config.breaker_failures, config.breaker_open_s)
    self._counters = Counters()
    self._bodies = Bodies(config)
    self._under_way = 0

  async def connected(self, app) -> AsyncIterator[None]:
    """Holds the connections while the application runs."""
    c = self._config
    async with open_session(c.connect_timeout_s, c.silence_timeout_s) as s:
      self._answering = Answering(
        c,
        self._prompts,
        Endpoint(s, "upstream", c.upstream, key=self._keys.upstream),
        Endpoint(s, "teacher", c.teacher, key=self._keys.teacher),
        self._breaker,
        self._counters,
      )
      yield

  def _check_key(self, request: web.Request) -> None:
    if self._keys.client is None:
      return
    shown = request.headers.get("Authorization", "")
    wanted = f"Bearer {self._keys.client}"
    if not hmac.compare_digest(
      shown.encode(errors="surrogateescape"), wanted.encode()
    ):
      message = "the API key is missing or wrong"
      raise errors.refused(401, message, "invalid_api_key")

  def _check_room(self) -> None:
    if self._under_way >= self._config.max_concurrency:
      raise errors.full()

  def _authorization(self, request: web.Request) -> str | None:
    if not self._config.upstream.forward_authorization:
      return None
    # A client without a key is told so by the upstream.
    return request.headers.get("Authorization")

  async def chat(self, request: web.Request) -> web.StreamResponse:
    """Answers, and counts the request once, however it ends."""
    outcome = "failed"
    try:
      self._check_key(request)
      self._check_room()
      data = await self._bodies.read(request)
      self._check_room()  # others may have come meanwhile
      outcome, response = await self._admitted(request, data)
      return response
    except errors.Refused as refused:
      outcome = "refused"
      return refused.response
    except asyncio.CancelledError:
      outcome = "cancelled"
      raise
    except Exception as error:
      # Its words may be of a question.
      log.error("a chat failed: %s", place(error))
      return errors.error(500, "the proxy failed", "server_error")
    finally:
      self._counters.requests.labels(outcome).inc()

  async def _admitted(
    self, request, data: bytes
  ) -> tuple[str, web.StreamResponse]:
    self._under_way += 1
    self._counters.in_flight.set(self._under_way)
    try:
      with self._answering.timed("total"):
        return await self._answering.answer(
          request, data, self._authorization(request)
        )
    finally:
      self._under_way -= 1
      self._counters.in_flight.set(self._under_way)

  async def models(self, request: web.Request) -> web.Response:
    try:
      self._check_key(request)
    except errors.Refused as refused:
      return refused.response
    upstream = self._answering.upstream
    try:
      status, body = await upstream.models(
        self._config.connect_timeout_s, self._authorization(request)
      )
    except (aiohttp.ClientError, TimeoutError) as reason:
      return errors.no_answer(reason)
    return errors.handed_on(status, body, {}, upstream.hide)

  async def health(self, _) -> web.Response:
    """503 where the upstream is down; all else that is not well degrades.

    HTTP 401 or 404 to a question for the models says that a key or an address
    is wrong, or that a server has no such list.
    """

    async def state(endpoint):
      try:
        status, _ = await endpoint.models(self._config.health_timeout_s)
      except (aiohttp.ClientError, TimeoutError):
        return "down"
      if status >= 500:
        return "down"
      # A client's own key is not at hand here.
      forwards = self._config.upstream.forward_authorization
      keyless = endpoint is self._answering.upstream and forwards
      if status < 400 or (keyless and status in (401, 403)):
        return "up"
      return f"HTTP {status}"

    upstream, teacher = await asyncio.gather(
      state(self._answering.upstream), state(self._answering.teacher)
    )
    circuit = self._breaker.state
    well = upstream == teacher == "up" and circuit == "closed"
    status = "down" if upstream == "down" else "ok" if well else "degraded"
    return web.json_response(
      {
        "status": status,
        "upstream": {"state": upstream},
        "teacher": {"state": teacher, "circuit": circuit},
        "in_flight": self._under_way,
      },
      status=503 if status == "down" else 200,
    )

  async def metrics(self, _) -> web.Response:
    self._counters.circuit_open.set(self._breaker.state != "closed")
    return web.Response(
      body=self._counters.text(),
      headers={"Content-Type": self._counters.content_type},
    )

  async def unknown(self, request: web.Request) -> web.Response:
    return errors.error(
      404,
      f"no {request.method} {request.path} here; POST /v1/chat/completions,"
      " GET /v1/models, /health, /metrics",
      "invalid_request_error",
    )
