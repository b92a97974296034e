"""The HTTP side: chat completions, the upstream's models, health and metrics.

Who may ask is in doors.py, how many connect in connections.py, what one chat
completion goes through in answering.py. Nothing of what is asked or answered
is logged.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp
from aiohttp import web

from atlas_jax.config import PromptsConfig, resolve
from atlas_jax.config_tree import ConfigError
from atlas_jax.online.calls import chat_json
from atlas_jax.online.production.outcomes import place
from atlas_jax.online.production.proxy import connections, errors
from atlas_jax.online.production.proxy.answering import Shared, answer
from atlas_jax.online.production.proxy.breaker import Breaker
from atlas_jax.online.production.proxy.config import (
  Keys,
  ProxyConfig,
  read_keys,
)
from atlas_jax.online.production.proxy.counters import Counters
from atlas_jax.online.production.proxy.doors import Doors
from atlas_jax.online.production.proxy.endpoint import Endpoint
from atlas_jax.online.production.proxy.errors import Refused
from atlas_jax.online.production.proxy.health import Health
from atlas_jax.serving import http
from atlas_jax.teaching.prompts import Prompts

log = logging.getLogger(__name__)
_UNKNOWN = (
  "only POST /v1/chat/completions, GET /v1/models, /v1/models/ID, /health,"
  " /metrics are here"
)


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

  async def until_signalled() -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
      loop.add_signal_handler(number, asked.set)
    async with connections.listening(app, config):
      await asked.wait()
      for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)  # a second one ends it at once

  try:
    asyncio.run(until_signalled())
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
  app = web.Application()
  app[connections.BUSY] = proxy.busy
  app.cleanup_ctx.append(proxy.connected)
  if config.allow_origins:
    app.on_response_prepare.append(proxy.doors.add_cors)
  guarded, router = proxy.guarded, app.router
  router.add_post("/v1/chat/completions", guarded(proxy.chat))
  router.add_get("/v1/models", guarded(proxy.models))
  router.add_get("/v1/models/{id:.+}", guarded(proxy.model))
  router.add_get("/health", guarded(proxy.health))
  router.add_get("/metrics", guarded(proxy.metrics))
  router.add_route("*", "/{path:.*}", guarded(proxy.unknown))
  return app


class _Proxy:
  def __init__(self, config: ProxyConfig, prompts: Prompts, keys: Keys):
    self.doors = Doors(config, keys)
    self.busy = set()  # connections whose requests are being answered
    self._config = config
    self._prompts = prompts
    self._keys = keys
    self._breaker = Breaker(config.breaker_failures, config.breaker_open_s)
    self._counters = Counters()
    self._chats: set[asyncio.Task] = set()  # under way
    self._counters.in_flight.set_function(lambda: len(self._chats))
    self._counters.circuit_open.set_function(
      lambda: self._breaker.state != "closed"
    )

  async def connected(self, app) -> AsyncIterator[None]:
    """Holds the connections while the application runs."""
    c = self._config
    async with http.open_session(
      connect_timeout_s=c.connect_timeout_s,
      silence_timeout_s=c.silence_timeout_s,
      answer_timeout_s=c.answer_timeout_s,
    ) as session:
      self._upstream = Endpoint(session, "upstream", c, self._keys)
      teacher = Endpoint(session, "teacher", c, self._keys)
      self._health = Health(c, self._upstream, teacher, self._breaker)
      self._shared = Shared(
        *(c, self._prompts, self._upstream, teacher),
        *(self._breaker, self._counters),
      )
      yield

  def guarded(self, handler: Callable) -> Callable:
    """A handler that only clients reach; what is refused ends here."""

    async def guarded(request: web.Request) -> web.StreamResponse:
      connection = request.protocol
      self.busy.add(connection)
      try:
        self.doors.check_sender(request)
        return self.doors.preflight(request) or await handler(request)
      except Refused as refused:
        response = errors.error(*refused.args)
        if not request.content.is_eof():
          response.force_close()  # the rest of the body is not read
        return response
      finally:
        self.busy.discard(connection)

    return guarded

  def _check_room(self) -> None:
    if len(self._chats) >= self._config.max_concurrency:
      raise Refused(*errors.FULL)

  def _authorization(self, request: web.Request) -> str | None:
    # To a client without a key the upstream says so.
    forwards = self._config.upstream.forward_authorization
    return request.headers.get("Authorization") if forwards else None

  async def chat(self, request: web.Request) -> web.StreamResponse:
    """Answers, and counts the request once, however it ends."""
    outcome, held = "failed", 0
    try:
      self.doors.check_key(request)
      self._check_room()
      self.doors.check_body(request)
      data, held = await self.doors.body(request)
      self._check_room()  # others may have come meanwhile
      self._chats.add(request.task)
      with self._counters.seconds["total"].time():
        outcome, response = await answer(
          self._shared, request, data, self._authorization(request)
        )
      return response
    except Refused:
      outcome = "refused"
      raise
    except asyncio.CancelledError:
      outcome = "cancelled"
      raise
    except RecursionError:  # what could be read may be too deep to be written
      outcome = "refused"
      raise Refused(400, "the body is nested too deeply") from None
    except Exception as error:
      # Its words may be of a question.
      log.error("a chat failed: %s", place(error))
      return errors.error(500, "the proxy failed", "server_error")
    finally:
      self._chats.discard(request.task)
      self.doors.free(held)
      self._counters.requests[outcome].inc()

  async def models(self, request: web.Request) -> web.Response:
    """The upstream's list of models, as it is."""
    self.doors.check_key(request)
    try:
      status, body = await self._upstream.models(
        self._config.connect_timeout_s, self._authorization(request)
      )
    except (aiohttp.ClientError, TimeoutError) as reason:
      return errors.no_answer(reason)
    return errors.passed_on(status, body)

  async def model(self, request: web.Request) -> web.Response:
    """One model of that list, which more servers have than a page for each."""
    response = await self.models(request)
    if response.status != 200:
      return response
    name = request.match_info["id"]
    try:
      models = chat_json.parsed(response.body)["data"]
      return web.json_response(next(m for m in models if m["id"] == name))
    except (chat_json.CallFailed, LookupError, TypeError):
      return errors.no_answer(errors.Strange("it lists no models"))
    except StopIteration:
      raise Refused(404, f"the model {name[:200]!r} does not exist") from None

  async def health(self, request: web.Request) -> web.Response:
    """503 where the upstream is down; details only to who knows the key."""
    states = await self._health.states()
    if self.doors.knows_key(request):
      states["in_flight"] = len(self._chats)
    else:
      states = {"status": states["status"]}
    down = states["status"] == "down"
    return web.json_response(states, status=503 if down else 200)

  async def unknown(self, request: web.Request) -> web.Response:
    raise Refused(404, _UNKNOWN)

  async def metrics(self, request: web.Request) -> web.Response:
    if not self.doors.knows_key(request):
      raise Refused(*errors.WRONG_KEY)
    return web.Response(
      body=self._counters.text(),
      headers={"Content-Type": self._counters.content_type},
    )
