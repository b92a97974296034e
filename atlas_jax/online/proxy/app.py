"""The HTTP side: POST /v1/chat/completions, GET /v1/models, /health, /metrics.

Who may ask is in doors.py, how many connect in connections.py, what one chat
completion goes through in answering.py. Nothing of what is asked or answered
is logged.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Mapping

import aiohttp
from aiohttp import web

from atlas_jax import addresses
from atlas_jax.config import PromptsConfig, resolve
from atlas_jax.config_tree import ConfigError
from atlas_jax.online.outcomes import place
from atlas_jax.online.proxy import connections, doors, errors
from atlas_jax.online.proxy.answering import Answering
from atlas_jax.online.proxy.bodies import Bodies
from atlas_jax.online.proxy.breaker import Breaker
from atlas_jax.online.proxy.config import (
  Keys,
  ProxyConfig,
  read_keys,
)
from atlas_jax.online.proxy.counters import Counters
from atlas_jax.online.proxy.endpoint import Endpoint
from atlas_jax.online.proxy.hiding import Hiding
from atlas_jax.serving import http
from atlas_jax.teaching.prompts import Prompts

log = logging.getLogger(__name__)
_UNKNOWN = (
  "only POST /v1/chat/completions, GET /v1/models, /health, /metrics are here"
)
_HEALTH_KEPT_S = 1.0  # /health asks the servers no more often


def serve(config: ProxyConfig, environ: Mapping[str, str]) -> None:
  """Serves until SIGTERM or Ctrl-C, then lets open requests end.

  Args:
    config: checked here, and its prompts_path read.
    environ: holds the keys that the config names.

  Raises:
    ConfigError, PromptError: the config cannot work, or its port is not free.
  """
  config = resolve(config, cls=ProxyConfig)
  connections.reserve_files()
  app = make_app(config, config.prompts, read_keys(config, environ))
  log.info(
    "http://%s:%d/v1 puts %s before %s",
    *(config.host, config.port, config.teacher.url, config.upstream.url),
  )
  try:
    asyncio.run(connections.serve_until_told(app, config))
  except OSError as error:
    raise ConfigError(
      f"config.host={config.host}, config.port={config.port}: {error}"
    ) from error


def make_app(
  config: ProxyConfig, prompts: PromptsConfig, keys: Keys
) -> web.Application:
  """The application, to be served by connections.listening."""
  templates = Prompts(prompts, config.episode.stated_probe_tokens)
  proxy = _Proxy(config, templates, keys)
  app = web.Application(middlewares=[proxy.enter])
  app[connections.BUSY] = proxy.busy
  app.cleanup_ctx.append(proxy.connected)
  app.router.add_post("/v1/chat/completions", proxy.chat)
  app.router.add_get("/v1/models", proxy.models)
  app.router.add_get("/health", proxy.health)
  app.router.add_get("/metrics", proxy.metrics)
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
    self.busy = set()  # connections whose requests are being answered
    self._asking = asyncio.Lock()
    self._states, self._asked_at = ("down", "down"), -_HEALTH_KEPT_S

  async def connected(self, app) -> AsyncIterator[None]:
    """Holds the connections while the application runs."""
    c, hiding = self._config, Hiding(self._keys)
    async with http.open_session(
      connect_timeout_s=c.connect_timeout_s,
      silence_timeout_s=c.silence_timeout_s,
      answer_timeout_s=c.answer_timeout_s,
    ) as s:
      self._answering = Answering(
        c,
        self._prompts,
        Endpoint(s, "upstream", c, self._keys, hiding),
        Endpoint(s, "teacher", c, self._keys, hiding),
        self._breaker,
        self._counters,
      )
      yield

  @web.middleware
  async def enter(self, request: web.Request, handler) -> web.StreamResponse:
    """Refuses what comes from no client; what is refused ends here."""
    connection = request.protocol
    self.busy.add(connection)
    try:
      keyless = self._keys.client is None
      doors.check_sender(request, self._config, keyless=keyless)
      return await handler(request)
    except errors.Refused as refused:
      response = errors.error(*refused.args)
      if not request.content.is_eof():
        response.force_close()  # the rest of the body is not read
      return response
    except web.HTTPException:  # there is no such path, or method of it
      return errors.error(404, _UNKNOWN)
    finally:
      self.busy.discard(connection)

  def _knows_key(self, request: web.Request) -> bool:
    shown = request.headers.get("Authorization", "")
    wanted = f"Bearer {self._keys.client}"
    return hmac.compare_digest(
      shown.encode(errors="surrogateescape"), wanted.encode()
    )

  def _check_key(self, request: web.Request) -> None:
    if self._keys.client is not None and not self._knows_key(request):
      raise errors.Refused(*errors.WRONG_KEY)

  def _may_look(self, request: web.Request) -> bool:
    """Whether one sees counts and states; without a key: on this machine."""
    if self._keys.client is None:
      return addresses.is_loopback(request.remote)
    return self._knows_key(request)

  def _check_room(self) -> None:
    if self._under_way >= self._config.max_concurrency:
      raise errors.Refused(*errors.FULL)

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
      doors.check_body(request)
      async with self._bodies.read(request) as data:
        self._check_room()  # others may have come meanwhile
        outcome, response = await self._admitted(request, data)
      return response
    except errors.Refused:
      outcome = "refused"
      raise
    except asyncio.CancelledError:
      outcome = "cancelled"
      raise
    except RecursionError:  # what could be read may be too deep to be written
      outcome = "refused"
      return errors.error(400, "the body is nested too deeply")
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
    self._check_key(request)
    upstream = self._answering.upstream
    try:
      status, body = await upstream.models(
        self._config.connect_timeout_s, self._authorization(request)
      )
    except (aiohttp.ClientError, TimeoutError) as reason:
      return errors.no_answer(reason)
    return errors.handed_on(status, body, {})

  async def _ask_states(self) -> tuple[str, str]:
    """How upstream and teacher are: asked once in a while, whoever asks."""

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

    async with self._asking:
      if time.monotonic() >= self._asked_at + _HEALTH_KEPT_S:
        self._states = await asyncio.gather(
          state(self._answering.upstream), state(self._answering.teacher)
        )
        self._asked_at = time.monotonic()
    return self._states

  async def health(self, request: web.Request) -> web.Response:
    """503 where the upstream is down; all else that is not well degrades.

    HTTP 401 or 404 to a question for the models says that a key or an address
    is wrong, or that a server has no such list.
    """
    upstream, teacher = await self._ask_states()
    circuit = self._breaker.state
    well = upstream == teacher == "up" and circuit == "closed"
    status = "down" if upstream == "down" else "ok" if well else "degraded"
    body = {"status": status}
    if self._may_look(request):
      body |= {
        "upstream": {"state": upstream},
        "teacher": {"state": teacher, "circuit": circuit},
        "in_flight": self._under_way,
      }
    return web.json_response(body, status=503 if status == "down" else 200)

  async def metrics(self, request: web.Request) -> web.Response:
    if not self._may_look(request):
      raise errors.Refused(*errors.WRONG_KEY)
    self._counters.circuit_open.set(self._breaker.state != "closed")
    return web.Response(
      body=self._counters.text(),
      headers={"Content-Type": self._counters.content_type},
    )
