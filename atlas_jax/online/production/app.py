"""The HTTP side: chat completions, the upstream's models, health and metrics.

Who gets in is in doors.py, what one chat completion goes through in
answering.py. Nothing of what is asked or answered is logged.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp
from aiohttp import web

from atlas_jax.config import resolve
from atlas_jax.config_tree import ConfigError
from atlas_jax.online.calls import chat_json
from atlas_jax.online.production import doors, errors
from atlas_jax.online.production.answering import Asked, Shared
from atlas_jax.online.production.config import Keys, ProxyConfig, read_keys
from atlas_jax.online.production.errors import Refused
from atlas_jax.online.production.outcomes import place
from atlas_jax.serving import http

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
  keys = read_keys(config, environ)
  doors.reserve_files()

  async def until_signalled() -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
      loop.add_signal_handler(number, asked.set)
    async with serving(config, keys):
      log.info(
        "http://%s:%d/v1 puts %s before %s",
        *(config.host, config.port, config.teacher.url, config.upstream.url),
      )
      await asked.wait()
      for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)  # a second one ends it at once

  try:
    asyncio.run(until_signalled())
  except OSError as error:
    raise ConfigError(
      f"config.host={config.host}, config.port={config.port}: {error}"
    ) from error


@contextlib.asynccontextmanager
async def serving(
  config: ProxyConfig, keys: Keys
) -> AsyncIterator[asyncio.Server]:
  """The proxy, which answers while this is entered."""
  async with http.open_session(
    connect_timeout_s=config.connect_timeout_s,
    silence_timeout_s=config.silence_timeout_s,
    answer_timeout_s=config.answer_timeout_s,
  ) as session:
    proxy = _Proxy(config, keys, session)
    app = web.Application(middlewares=[proxy.guard])
    if config.allow_origins:
      app.on_response_prepare.append(proxy.doors.add_cors)
    app.router.add_post("/v1/chat/completions", proxy.chat)
    app.router.add_get("/v1/models", proxy.models)
    app.router.add_get("/v1/models/{id:.+}", proxy.model)
    app.router.add_get("/health", proxy.health)
    app.router.add_get("/metrics", proxy.metrics)
    async with doors.listening(app, proxy.busy, config) as server:
      yield server


class _Proxy:
  def __init__(self, config: ProxyConfig, keys: Keys, session):
    self.doors = doors.Doors(config, keys)
    self.busy = set()  # connections whose requests are being answered
    self._config = config
    self._shared = Shared(config, keys, session)
    self._counters = self._shared.counters
    self._chats = 0  # under way
    breaker = self._shared.breaker
    self._counters.in_flight.set_function(lambda: self._chats)
    self._counters.circuit_open.set_function(lambda: breaker.state != "closed")

  @web.middleware
  async def guard(
    self, request: web.Request, handler: Callable
  ) -> web.StreamResponse:
    """Lets clients through; what is refused ends here."""
    connection = request.protocol
    self.busy.add(connection)
    try:
      self.doors.check_sender(request)
      return self.doors.preflight(request) or await handler(request)
    except (Refused, web.HTTPException) as refused:
      # The framework's own are about paths and methods that are not here.
      known = isinstance(refused, Refused)
      response = errors.error(*refused.args if known else (404, _UNKNOWN))
      if not request.content.is_eof():
        response.force_close()  # the rest of the body is not read
      return response
    finally:
      self.busy.discard(connection)

  async def chat(self, request: web.Request) -> web.StreamResponse:
    """Answers, and counts the request once, however it ends."""
    outcome, most = "failed", self._config.max_concurrency
    try:
      self.doors.check_key(request)
      async with self.doors.body(request) as data:
        if self._chats >= most:
          raise Refused(*errors.FULL)
        self._chats += 1
        try:
          with self._counters.seconds["total"].time():
            asked = Asked(self._shared, request, data)
            outcome, response = await asked.answer()
        finally:
          self._chats -= 1
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
      self._counters.requests[outcome].inc()

  async def models(self, request: web.Request) -> web.Response:
    """The upstream's list of models, as it is."""
    self.doors.check_key(request)
    try:
      own = request.headers.get("Authorization")
      status, body = await self._shared.upstream.models(own)
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
    """503 where the upstream is down; all else that is not well degrades it.

    Details are for who knows the key.
    """
    shared, circuit = self._shared, self._shared.breaker.state
    upstream, teacher = await asyncio.gather(
      shared.upstream.state(), shared.teacher.state()
    )
    well = upstream == teacher == "up" and circuit == "closed"
    down = upstream == "down"
    states = {"status": "down" if down else "ok" if well else "degraded"}
    if self.doors.knows_key(request):
      states |= {
        "upstream": {"state": upstream},
        "teacher": {"state": teacher, "circuit": circuit},
        "in_flight": self._chats,
      }
    return web.json_response(states, status=503 if down else 200)

  async def metrics(self, request: web.Request) -> web.Response:
    if not self.doors.knows_key(request):
      raise Refused(*errors.WRONG_KEY)
    return await self._counters.page(request)
