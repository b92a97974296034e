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
import re
import time
from collections.abc import AsyncIterator, Mapping

import aiohttp
from aiohttp import web

from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.chat_json import begins_well, is_answer
from atlas_jax.online.calls.speakers import FAILED, said_of
from atlas_jax.online.production import errors, outcomes
from atlas_jax.online.production.breaker import Breaker
from atlas_jax.online.production.chats import read_chat
from atlas_jax.online.production.config import Keys, ProxyConfig
from atlas_jax.online.production.counters import Counters
from atlas_jax.online.production.endpoint import Endpoint
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.protocol import Question, Teaching, TeachingProtocol
from atlas_jax.teaching.speakers import Ask, Said

HEADER = "x-atlas-teaching"
# No other header of the upstream reaches a client.
_PASSED_ON = (
  *("Retry-After", "x-request-id", "X-Accel-Buffering", "Cache-Control"),
)
# Of the client's key or of its pace, not of the teaching.
_NOT_THE_TEACHINGS_FAULT = (401, 403, 429)
# The request itself was too long or not liked; the teacher is well.
_NOT_THE_TEACHERS_FAULT = (400, 413, 422)
_LONGEST_START = 1 << 16  # bytes of a stream that say nothing
# The event after which a client may leave at once: nothing comes any more.
_DONE = re.compile(rb"[\r\n]data: ?\[DONE\]")


class _TaughtFailed(AtlasError):
  """The upstream did not answer under the teaching."""


class Shared:
  """What all chats of a proxy use."""

  def __init__(
    self, config: ProxyConfig, keys: Keys, session: aiohttp.ClientSession
  ):
    self.config = config
    self.prompts = Prompts(config.prompts, config.episode.stated_probe_tokens)
    self.upstream = Endpoint(session, "upstream", config, keys)
    self.teacher = Endpoint(session, "teacher", config, keys)
    self.breaker = Breaker(config.breaker_failures, config.breaker_open_s)
    self.counters = Counters()


class Asked:
  """One chat that is under way, and the student and the teacher of it.

  Raises:
    Refused: the body is no chat.
  """

  tokenizer = None  # nobody's is known here

  def __init__(self, shared: Shared, request: web.Request, data: bytes):
    config = shared.config
    self._shared = shared
    self._request = request
    self._authorization = request.headers.get("Authorization")
    self._chat = read_chat(data, config.max_question_bytes, config.extra_fields)
    # How the teacher is, as this chat shows it; None: it does not.
    self._well: bool | None = None

  async def answer(self) -> tuple[str, web.StreamResponse]:
    """(what to count, the response)."""
    counters, how, teaching = self._shared.counters, "passed_through", None
    if self._chat.question is None:
      counters.passed[self._chat.reason].inc()
    else:
      how, teaching = await self._teach()
    with counters.seconds["answer"].time():
      try:
        return await self._forward(how, teaching)
      except _TaughtFailed:
        return await self._forward("alone_taught_failed", None)

  async def _teach(self) -> tuple[str, Teaching | None]:
    """(outcome so far, teaching), at the deadline at the latest."""
    shared, deadline_s = self._shared, self._shared.config.teach_deadline_s
    if not shared.breaker.admit():
      return "alone_down", None
    self._fair_until = time.monotonic() + deadline_s / 2

    async def walk() -> list[Teaching]:
      question, config = Question(self._chat.question), shared.config.episode
      protocol = TeachingProtocol(self, self, shared.prompts, config)
      probe = protocol.read(await protocol.probe(question))
      return await protocol.teach(question, probe)

    try:
      return await outcomes.teaching(walk(), deadline_s)
    finally:
      shared.breaker.report(self._well)

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    """The upstream's plan, after the client's own turns, or the teaching."""
    shared, teaches = self._shared, ask.role == "teacher"
    stage = "teach" if teaches else "probe"
    server = shared.teacher if teaches else shared.upstream
    body = self._chat.asking(prompt, ask)
    kwargs = shared.config.episode.chat_template_kwargs.of(ask.role)
    if kwargs:
      body["chat_template_kwargs"] = kwargs
    # A slow probe leaves no time in which any teacher could answer.
    if teaches and time.monotonic() <= self._fair_until:
      self._well = False
    with shared.counters.seconds[stage].time():
      reply = await server.ask(body, self._authorization)
    shared.counters.tokens[stage].inc(reply.completion_tokens or 0)
    if teaches:
      self._well = reply.status not in FAILED
      if reply.code in _NOT_THE_TEACHERS_FAULT:
        self._well = None
    return [said_of(reply, ask.role)]

  def _body(self, how: str, teaching: Teaching | None) -> Mapping:
    """What the upstream is asked."""
    question, prompts = self._chat.question, self._shared.prompts
    if question is None:
      return self._chat.body
    role, fields = "student_baseline", {"question": question}
    if how == "taught":
      role, fields = "student_taught", fields | {"teaching": teaching.text}
    return self._chat.with_prompt(prompts.render(role, fields))

  async def _forward(
    self, how: str, teaching: Teaching | None
  ) -> tuple[str, web.StreamResponse]:
    """(what to count, the upstream's response); a stream is written here.

    Raises:
      _TaughtFailed: `how` is taught, and nothing was passed on.
    """
    upstream, headers = self._shared.upstream, {HEADER: how}
    body = self._body(how, teaching)
    taught = how == "taught"
    try:
      async with upstream.post(body, self._authorization) as answer:
        status, streams = answer.status, body.get("stream")
        if taught and status >= 400 and status not in _NOT_THE_TEACHINGS_FAULT:
          raise _TaughtFailed
        kinds = (errors.JSON, errors.EVENTS) if streams else (errors.JSON,)
        errors.check_known(answer, *kinds)
        for name in _PASSED_ON:
          value = answer.headers.get(name, "")
          if value and value.isascii() and value.isprintable():
            headers[name] = upstream.hide(value)
        if status == 200 and answer.content_type == errors.EVENTS:
          pieces = upstream.lines(answer)
          first = await anext(pieces, None)
          if taught and (first := await _begun(first, pieces)) is None:
            raise _TaughtFailed
          headers["Content-Type"] = errors.EVENTS
          response = web.StreamResponse(headers=headers)
          ended = await _pass_on(self._request, first, pieces, response)
          return ended or how, response
        content = await upstream.read(answer)
    except (aiohttp.ClientError, TimeoutError) as reason:
      upstream.complain(reason)
      if taught and not isinstance(reason, TimeoutError):
        raise _TaughtFailed from None
      return "failed", errors.no_answer(reason, headers)
    if status == 200 and how != "passed_through" and not is_answer(content):
      if taught:
        raise _TaughtFailed
      how = "failed"
    response = errors.passed_on(status, content, headers)
    return "failed" if status >= 400 else how, response


async def _begun(
  first: bytes | None, pieces: AsyncIterator[bytes]
) -> bytes | None:
  """A stream up to its first word; None: it has none, or is an error."""
  while first is not None:
    well = begins_well(first)
    if well or (well is None and len(first) > _LONGEST_START):
      return first
    more = None if well is False else await anext(pieces, None)
    first = None if more is None else first + more
  return None


async def _pass_on(
  request: web.Request,
  piece: bytes | None,
  pieces: AsyncIterator[bytes],
  response: web.StreamResponse,
) -> str | None:
  """Passes on `piece` and `pieces` as they come; None, or how it ended badly.

  The status is out already, so a client reads of an upstream that breaks off
  in an event that holds an error.
  """
  ended, tail = None, b"\n"
  try:
    await response.prepare(request)
    while piece is not None:
      await response.write(piece)
      tail = tail[-16:] + piece
      if ended:
        break
      try:
        piece = await anext(pieces, None)
      except (aiohttp.ClientError, TimeoutError) as reason:
        ended = "failed"
        text = errors.no_answer(reason).text
        piece = f"\n\ndata: {text}\n\n".encode()
    await response.write_eof()
  except (ConnectionResetError, asyncio.CancelledError) as left:
    # By the client: the upstream's breaks are above.
    if ended is None and not _DONE.search(tail):
      if isinstance(left, asyncio.CancelledError):
        raise
      ended = "cancelled"
  return ended
