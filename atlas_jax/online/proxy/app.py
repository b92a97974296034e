"""The HTTP side: POST /v1/chat/completions, GET /v1/models, /health, /metrics.

One chat completion:
  1. what asks for structure (tools, images, n > 1, JSON, ...) or is too long
     passes through as it is;
  2. the upstream is probed and the teacher teaches, in bounded time;
  3. the upstream answers under the teaching, or else to the unaided template;
     a stream is handed on piece by piece.
The header x-atlas-teaching says which it was. Nothing of what is asked or
answered is logged.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping

import aiohttp
from aiohttp import web

from atlas_jax.config import PromptsConfig
from atlas_jax.online.proxy.breaker import Breaker
from atlas_jax.online.proxy.chats import BadRequest, Chat, read_chat
from atlas_jax.online.proxy.config import (
  Keys,
  ProxyConfig,
  check,
  read_keys,
  read_prompts,
)
from atlas_jax.online.proxy.counters import Counters
from atlas_jax.online.proxy.endpoint import Endpoint, open_session
from atlas_jax.online.proxy.teaching import find_teaching
from atlas_jax.teaching.prompts import Prompts

log = logging.getLogger(__name__)
HEADER = "x-atlas-teaching"
_HANDED_ON = ("Retry-After", "x-request-id")
# A guided prompt is longer than the unaided one: what refuses the first may
# well take the second.
_TOO_LONG = (400, 413, 422)


def make_app(
  config: ProxyConfig, prompts: PromptsConfig, keys: Keys
) -> web.Application:
  """The application, to be run with handler_cancellation=True.

  Without that a client that goes away does not end the upstream's work.
  """
  proxy = _Proxy(config, Prompts(prompts), keys)
  # A gzipped body is bounded too: the limit is on what comes out.
  app = web.Application(client_max_size=config.max_request_bytes)
  app.cleanup_ctx.append(proxy.connected)
  app.router.add_post("/v1/chat/completions", proxy.chat)
  app.router.add_get("/v1/models", proxy.models)
  app.router.add_get("/health", proxy.health)
  app.router.add_get("/metrics", proxy.metrics)
  app.router.add_route("*", "/{path:.*}", proxy.unknown)
  return app


def _error(status: int, message: str, kind: str) -> web.Response:
  body = {"message": message, "type": kind, "param": None, "code": None}
  return web.json_response({"error": body}, status=status)


class _Proxy:
  def __init__(self, config: ProxyConfig, prompts: Prompts, keys: Keys):
    self._config = config
    self._prompts = prompts
    self._keys = keys
    self._breaker = Breaker(config.breaker_failures, config.breaker_open_s)
    self._counters = Counters()
    self._under_way = 0

  async def connected(self, app) -> AsyncIterator[None]:
    """Holds the connections while the application runs."""
    c = self._config
    async with open_session(c.connect_timeout_s, c.silence_timeout_s) as s:
      self._upstream = Endpoint(
        s, c.upstream.url, model=c.upstream.model, key=self._keys.upstream
      )
      self._teacher = Endpoint(
        s, c.teacher.url, model=c.teacher.model, key=self._keys.teacher
      )
      yield

  def _refused(self, request: web.Request) -> web.Response | None:
    if self._keys.client is None:
      return None
    shown = request.headers.get("Authorization", "")
    wanted = f"Bearer {self._keys.client}"
    if hmac.compare_digest(
      shown.encode(errors="surrogateescape"), wanted.encode()
    ):
      return None
    return _error(401, "the API key is missing or wrong", "invalid_api_key")

  def _authorization(self, request: web.Request) -> str | None:
    if not self._config.upstream.forward_authorization:
      return None
    # A client without a key is told so by the upstream.
    return request.headers.get("Authorization")

  async def unknown(self, request: web.Request) -> web.Response:
    return _error(
      404,
      f"no {request.method} {request.path} here; POST /v1/chat/completions,"
      " GET /v1/models, /health, /metrics",
      "invalid_request_error",
    )

  async def models(self, request: web.Request) -> web.Response:
    refusal = self._refused(request)
    if refusal is not None:
      return refusal
    try:
      status, body = await self._upstream.models(
        self._config.connect_timeout_s, self._authorization(request)
      )
    except (aiohttp.ClientError, TimeoutError) as error:
      return _no_answer(error)
    return self._handed_on(status, body, {})

  async def health(self, _) -> web.Response:
    async def state(endpoint):
      try:
        status, _ = await endpoint.models(self._config.health_timeout_s)
      except (aiohttp.ClientError, TimeoutError):
        return "down"
      # One that asks for a key is there.
      return "up" if status < 500 else "down"

    upstream, teacher = await asyncio.gather(
      state(self._upstream), state(self._teacher)
    )
    circuit = self._breaker.state
    well = teacher == "up" and circuit == "closed"
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

  @contextlib.contextmanager
  def _timed(self, stage: str):
    start = time.monotonic()
    try:
      yield
    finally:
      self._counters.seconds.labels(stage).observe(time.monotonic() - start)

  async def chat(self, request: web.Request) -> web.StreamResponse:
    outcome = "failed"
    try:
      refusal = self._refused(request)
      if refusal is None and self._under_way >= self._config.max_concurrency:
        refusal = _error(429, "the proxy is full", "rate_limit_exceeded")
        refusal.headers["Retry-After"] = "1"
      if refusal is not None:
        outcome = "refused"
        return refusal
      self._under_way += 1
      self._counters.in_flight.set(self._under_way)
      try:
        with self._timed("total"):
          outcome, response = await self._answer(request)
      finally:
        self._under_way -= 1
        self._counters.in_flight.set(self._under_way)
      return response
    except asyncio.CancelledError:
      outcome = "cancelled"
      raise
    finally:
      self._counters.requests.labels(outcome).inc()

  async def _answer(self, request) -> tuple[str, web.StreamResponse]:
    """(what to count, the response)."""
    try:
      chat = read_chat(await request.read(), self._config.max_question_bytes)
    except web.HTTPRequestEntityTooLarge:
      limit = self._config.max_request_bytes
      message = f"the body is longer than {limit} bytes"
      return "refused", _error(413, message, "invalid_request_error")
    except BadRequest as error:
      return "refused", _error(400, str(error), "invalid_request_error")
    authorization = self._authorization(request)
    if chat.question is None:
      self._counters.passed.labels(chat.reason).inc()
      body, how = chat.body, "passed_through"
    else:
      how, body = await self._taught(chat, authorization)
    with self._timed("answer"):
      ended, response = await self._forward(
        request, chat, body, how, authorization
      )
      if how == "taught" and response.status in _TOO_LONG:
        ended, response = await self._forward(
          request, chat, self._alone(chat), "alone_guided_failed", authorization
        )
    return ended, response

  def _alone(self, chat: Chat) -> dict:
    fields = {"question": chat.question}
    return chat.with_prompt(self._prompts.render("student_baseline", fields))

  async def _taught(self, chat: Chat, authorization) -> tuple[str, dict]:
    how, taught = await find_teaching(
      chat,
      upstream=self._upstream,
      teacher=self._teacher,
      prompts=self._prompts,
      config=self._config,
      breaker=self._breaker,
      authorization=authorization,
    )
    if taught is not None:
      replies = {"probe": taught.approach_reply, "teach": taught.teaching_reply}
      for stage, reply in replies.items():
        if reply is not None:
          self._counters.seconds.labels(stage).observe(reply.seconds)
          self._counters.tokens.labels(stage).inc(reply.completion_tokens or 0)
    if how != "taught":
      return how, self._alone(chat)
    fields = {"question": chat.question, "teaching": taught.teaching}
    prompt = self._prompts.render("student_with_teaching", fields)
    return how, chat.with_prompt(prompt)

  async def _forward(
    self, request, chat: Chat, body, how: str, authorization
  ) -> tuple[str, web.StreamResponse]:
    """(what to count, the upstream's response); a stream is written here."""
    headers = {HEADER: how}
    try:
      async with self._upstream.post(body, authorization) as answer:
        headers |= {k: v for k, v in answer.headers.items() if k in _HANDED_ON}
        if chat.stream and answer.status == 200:
          headers["Content-Type"] = answer.content_type
          response = web.StreamResponse(headers=headers)
          ended = await self._stream(request, answer, response)
          return ended or how, response
        content = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
      response = _no_answer(error)
      response.headers.update(headers)
      return "failed", response
    response = self._handed_on(answer.status, content, headers)
    return "failed" if response.status >= 400 else how, response

  async def _stream(self, request, answer, response) -> str | None:
    """Hands on each piece as it comes; None, or how it ended badly.

    The status is out already, so an upstream that breaks off is told by an
    event that holds an error.
    """
    ended = None
    pieces = answer.content.iter_any()
    try:
      await response.prepare(request)
      while True:
        try:
          piece = await anext(pieces, None)
        except (aiohttp.ClientError, TimeoutError) as error:
          ended = "failed"
          piece = f"\n\ndata: {_no_answer(error).text}\n\n".encode()
        if piece is not None:
          await response.write(piece)
        if piece is None or ended:
          break
      await response.write_eof()
    except ConnectionResetError:  # of the client: the upstream's are above
      ended = "cancelled"
    return ended

  def _handed_on(self, status: int, content: bytes, headers) -> web.Response:
    """A whole response of the upstream; an error in the form of OpenAI's."""
    if status >= 400:
      text = self._upstream.hide(content.decode(errors="replace"))
      try:
        shaped = isinstance(json.loads(text)["error"], dict)
      except (ValueError, LookupError, TypeError):
        shaped = False
      if not shaped:
        response = _error(status, text[:2000], "upstream_error")
        response.headers.update(headers)
        return response
      content = text.encode()
    return web.Response(
      body=content,
      status=status,
      headers=headers,
      content_type="application/json",
    )


def _no_answer(error: Exception) -> web.Response:
  """502, or 504 for a timeout; says nothing of addresses."""
  late = isinstance(error, TimeoutError)
  what = "did not answer in time" if late else "cannot be reached"
  return _error(504 if late else 502, f"the upstream {what}", "upstream_error")


def serve(config: ProxyConfig, environ: Mapping[str, str]) -> None:
  """Serves until SIGTERM or Ctrl-C, then lets open requests end.

  Args:
    config: checked here.
    environ: holds the keys that the config names.

  Raises:
    ConfigError, PromptError: the config cannot work.
  """
  check(config)
  app = make_app(config, read_prompts(config), read_keys(config, environ))
  log.info(
    "http://%s:%d/v1 puts %s before %s",
    *(config.host, config.port, config.teacher.url, config.upstream.url),
  )
  web.run_app(
    app,
    host=config.host,
    port=config.port,
    shutdown_timeout=config.drain_s,
    handler_cancellation=True,
    access_log=None,
    print=None,
  )
