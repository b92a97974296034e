"""One chat completion, from its body to the last byte of its answer.

  1. what asks for structure (tools, images, n > 1, JSON, ...) or is too long
     passes through as it is;
  2. the upstream is probed and the teacher teaches, in bounded time; the
     teacher reads the question and the probe, not the earlier turns, which a
     client told its own model alone;
  3. the upstream answers under the teaching, or else to the unaided template;
     a stream is passed on piece by piece;
  4. where the taught request fails before anything was passed on (a status of
     400 or more, a connection that breaks, an error or no word with HTTP 200),
     the unaided one follows, once.
     Not after 401, 403 and 429, which are no fault of the teaching, nor after
     a timeout: nobody waits twice for an upstream that says nothing.
The header x-atlas-teaching says which it was.
"""

import asyncio
import logging
import time
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.chat_json import is_answer
from atlas_jax.online.calls.speakers import FAILED, said_of
from atlas_jax.online.production.once import reply_of
from atlas_jax.online.production.outcomes import outcome_of, place
from atlas_jax.online.production.proxy import errors, streams
from atlas_jax.online.production.proxy.breaker import Breaker
from atlas_jax.online.production.proxy.chats import Chat, read_chat
from atlas_jax.online.production.proxy.config import ProxyConfig
from atlas_jax.online.production.proxy.counters import Counters
from atlas_jax.online.production.proxy.endpoint import Endpoint
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.protocol import Question, TeachingProtocol
from atlas_jax.teaching.speakers import Ask, NoAnswer, Said

log = logging.getLogger(__name__)
HEADER = "x-atlas-teaching"
# No other header of the upstream reaches a client.
_PASSED_ON = ("Retry-After", "x-request-id", "X-Accel-Buffering")
_PASSED_ON += ("Cache-Control",)
# Of the client's key or of its pace, not of the teaching.
_NOT_THE_TEACHINGS_FAULT = (401, 403, 429)
# The request itself was too long or not liked; the teacher is well.
_NOT_THE_TEACHERS_FAULT = (400, 413, 422)


class _TaughtFailed(AtlasError):
  """The upstream did not answer under the teaching."""


@dataclass(frozen=True)
class Shared:
  """What all chats of a proxy use."""

  config: ProxyConfig
  prompts: Prompts
  upstream: Endpoint
  teacher: Endpoint
  breaker: Breaker
  counters: Counters


async def answer(
  shared: Shared,
  request: web.Request,
  data: bytes,
  authorization: str | None,
) -> tuple[str, web.StreamResponse]:
  """(what to count, the response) for a client's request.

  Args:
    shared: with all other chats.
    request: of the client.
    data: the body of it.
    authorization: the header that is passed on to the upstream.

  Raises:
    Refused: the body is no chat.
  """
  config = shared.config
  chat = read_chat(data, config.max_question_bytes, config.extra_fields)
  asked = _Asked(shared, request, chat, authorization)
  if chat.question is None:
    shared.counters.passed[chat.reason].inc()
    how, teaching = "passed_through", None
  else:
    how, teaching = await asked.teaching()
  with shared.counters.seconds["answer"].time():
    try:
      return await asked.forward(how, teaching)
    except _TaughtFailed:
      return await asked.forward("alone_guided_failed", None)


class _Asked:
  """One chat that is under way, and the student and the teacher of it."""

  tokenizer = None  # nobody's is known here

  def __init__(self, shared: Shared, request, chat: Chat, authorization):
    self._shared = shared
    self._request = request
    self._chat = chat
    self._authorization = authorization
    # How the teacher is, as this chat shows it; None: it does not.
    self._well: bool | None = None
    self._fairly_asked = False

  async def teaching(self) -> tuple[str, str | None]:
    """(outcome, teaching), at the deadline at the latest."""
    shared, deadline_s = self._shared, self._shared.config.teach_deadline_s
    admitted = shared.breaker.admit()
    if admitted is None:
      return "alone_down", None
    self._fair_until = time.monotonic() + deadline_s / 2
    try:
      walk = TeachingProtocol(self, self, shared.prompts, shared.config.episode)
      question = Question(self._chat.question)
      async with asyncio.timeout(deadline_s):
        probe = walk.read(await walk.probe(question))
        (teaching,) = await walk.teach(question, probe)
      return outcome_of(teaching), teaching.text
    except TimeoutError:
      # A slow probe leaves no time in which any teacher could answer.
      self._well = False if self._fairly_asked else None
      return "alone_late", None
    except NoAnswer as failure:
      return outcome_of(failure), None
    except Exception as error:
      # Teaching is an extra: whatever goes wrong, the student answers.
      log.error("no teaching: %s", place(error))
      return "alone_down", None
    finally:
      shared.breaker.report(admitted, self._well)

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    """The upstream's plan, after the client's own turns, or the teaching."""
    shared, teaches = self._shared, ask.role == "teacher"
    if teaches:
      stage, server, authorization = "teach", shared.teacher, None
      body = self._chat.for_teacher(prompt, ask.max_tokens, ask.temperature)
      self._fairly_asked = time.monotonic() <= self._fair_until
    else:
      stage, server = "probe", shared.upstream
      authorization = self._authorization
      body = self._chat.probe(prompt, ask.max_tokens, ask.temperature)
    kwargs = shared.config.episode.chat_template_kwargs.of(ask.role)
    if kwargs:
      body["chat_template_kwargs"] = kwargs
    with shared.counters.seconds[stage].time():
      reply = await reply_of(server.send(body, authorization), server.complain)
    shared.counters.tokens[stage].inc(reply.completion_tokens or 0)
    if teaches and reply.code not in _NOT_THE_TEACHERS_FAULT:
      self._well = reply.status not in FAILED
    return [said_of(reply, ask.role)]

  def _body(self, teaching: str | None):
    """The request that the upstream answers."""
    question, prompts = self._chat.question, self._shared.prompts
    if question is None:
      return self._chat.body
    if teaching is None:
      role, fields = "student_baseline", {}
    else:
      role, fields = "student_taught", {"teaching": teaching}
    prompt = prompts.render(role, {"question": question, **fields})
    return self._chat.with_prompt(prompt)

  async def forward(
    self, how: str, teaching: str | None
  ) -> tuple[str, web.StreamResponse]:
    """(what to count, the upstream's response); a stream is written here.

    Raises:
      _TaughtFailed: `how` is taught, and nothing was passed on.
    """
    upstream, headers = self._shared.upstream, {HEADER: how}
    try:
      async with upstream.post(
        self._body(teaching), self._authorization
      ) as answer:
        if (
          how == "taught"
          and answer.status >= 400
          and answer.status not in _NOT_THE_TEACHINGS_FAULT
        ):
          raise _TaughtFailed
        kinds = (errors.JSON, errors.EVENTS)[: 1 + self._chat.stream]
        errors.check_known(answer, *kinds)
        for name in _PASSED_ON:
          value = answer.headers.get(name)
          if value and value.isascii() and value.isprintable():
            headers[name] = upstream.hiding.in_text(value)
        if answer.status == 200 and answer.content_type == errors.EVENTS:
          pieces = upstream.lines(answer)
          first = await anext(pieces, None)
          if how == "taught":
            first = await streams.begun(first, pieces)
            if first is None:
              raise _TaughtFailed
          headers["Content-Type"] = errors.EVENTS
          response = web.StreamResponse(headers=headers)
          ended = await streams.write(self._request, first, pieces, response)
          return ended or how, response
        content = await upstream.read(answer)
    except (aiohttp.ClientError, TimeoutError) as reason:
      upstream.complain(reason)
      if how == "taught" and not isinstance(reason, TimeoutError):
        raise _TaughtFailed from None
      return "failed", errors.no_answer(reason, headers)
    odd = answer.status == 200 and how != "passed_through"
    odd = odd and not is_answer(content)
    if odd and how == "taught":
      raise _TaughtFailed
    failed = odd or answer.status >= 400
    response = errors.passed_on(answer.status, content, headers)
    return "failed" if failed else how, response
