"""One chat completion, from its body to the last byte of its answer.

  1. what asks for structure (tools, images, n > 1, JSON, ...) or is too long
     passes through as it is;
  2. the upstream is probed and the teacher teaches, in bounded time;
  3. the upstream answers under the teaching, or else to the unaided template;
     a stream is handed on piece by piece;
  4. where the guided request fails before anything was handed on (a status of
     400 or more, a connection that breaks, an error or no word with HTTP 200),
     the unaided one follows, once.
     Not after 401, 403 and 429, which are no fault of the teaching, nor after
     a timeout: nobody waits twice for an upstream that says nothing.
The header x-atlas-teaching says which it was.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from atlas_jax.errors import AtlasError
from atlas_jax.online.chat_json import begins_well, is_answer
from atlas_jax.online.outcomes import place
from atlas_jax.online.proxy import errors
from atlas_jax.online.proxy.breaker import Breaker
from atlas_jax.online.proxy.chats import BadRequest, Chat, read_chat
from atlas_jax.online.proxy.config import ProxyConfig
from atlas_jax.online.proxy.counters import Counters
from atlas_jax.online.proxy.endpoint import Endpoint
from atlas_jax.online.proxy.teaching import find_teaching
from atlas_jax.teaching.prompts import Prompts

log = logging.getLogger(__name__)
HEADER = "x-atlas-teaching"
# No other header of the upstream reaches a client.
_HANDED_ON = ("Retry-After", "x-request-id")
# Of the client's key or of its pace, not of the teaching.
_NOT_THE_TEACHINGS_FAULT = (401, 403, 429)
_LONGEST_START = 1 << 16  # bytes of a stream that say nothing
# The event after which a client may leave at once: nothing comes any more.
_DONE = re.compile(rb"[\r\n]data: ?\[DONE\]")


class _GuidedFailed(AtlasError):
  """The upstream did not answer under the teaching."""


@dataclass(frozen=True)
class Answering:
  """What all chats share."""

  config: ProxyConfig
  prompts: Prompts
  upstream: Endpoint
  teacher: Endpoint
  breaker: Breaker
  counters: Counters

  @contextlib.contextmanager
  def timed(self, stage: str) -> Iterator[None]:
    start = time.monotonic()
    try:
      yield
    finally:
      self.counters.seconds.labels(stage).observe(time.monotonic() - start)

  async def answer(
    self, request: web.Request, data: bytes, authorization: str | None
  ) -> tuple[str, web.StreamResponse]:
    """(what to count, the response).

    Args:
      request: of the client.
      data: the body of it.
      authorization: the header that is passed on to the upstream.
    """
    try:
      chat = read_chat(
        data, self.config.max_question_bytes, self.config.extra_fields
      )
    except BadRequest as bad:
      raise errors.Refused(400, str(bad)) from None
    if chat.question is None:
      self.counters.passed.labels(chat.reason).inc()
      how, body = "passed_through", chat.body
    else:
      how, body = await self._taught(chat, authorization)
    with self.timed("answer"):
      try:
        return await self._forward(request, chat, body, how, authorization)
      except _GuidedFailed:
        how, body = "alone_guided_failed", self._alone(chat)
        return await self._forward(request, chat, body, how, authorization)

  def _alone(self, chat: Chat) -> dict:
    fields = {"question": chat.question}
    return chat.with_prompt(self.prompts.render("student_baseline", fields))

  async def _taught(self, chat: Chat, authorization) -> tuple[str, dict]:
    """(how it will be answered, the request for it)."""
    try:
      how, teaching = await find_teaching(
        chat,
        upstream=self.upstream,
        teacher=self.teacher,
        prompts=self.prompts,
        config=self.config,
        breaker=self.breaker,
        counters=self.counters,
        authorization=authorization,
      )
    except Exception as error:
      # Teaching is an extra: whatever goes wrong, the student answers.
      log.error("no teaching: %s", place(error))
      how, teaching = "alone_down", None
    if how != "taught":
      return how, self._alone(chat)
    fields = {"question": chat.question, "teaching": teaching}
    prompt = self.prompts.render("student_taught", fields)
    return how, chat.with_prompt(prompt)

  async def _forward(
    self, request, chat: Chat, body: Mapping, how: str, authorization
  ) -> tuple[str, web.StreamResponse]:
    """(what to count, the upstream's response); a stream is written here.

    Raises:
      _GuidedFailed: `how` is taught, and nothing was handed on.
    """
    headers = {HEADER: how}
    try:
      async with self.upstream.post(body, authorization) as answer:
        if (
          how == "taught"
          and answer.status >= 400
          and answer.status not in _NOT_THE_TEACHINGS_FAULT
        ):
          raise _GuidedFailed
        kinds = (errors.JSON, errors.EVENTS) if chat.stream else (errors.JSON,)
        errors.check_known(answer, *kinds)
        for name in _HANDED_ON:
          value = answer.headers.get(name, "")
          if value and value.isascii() and value.isprintable():
            headers[name] = self.upstream.hiding.in_text(value)
        if answer.status == 200 and answer.content_type == errors.EVENTS:
          headers["Content-Type"] = errors.EVENTS
          response = web.StreamResponse(headers=headers)
          pieces = self.upstream.lines(answer)
          first = await anext(pieces, None)
          if how == "taught":
            first = await _begun(first, pieces)
          ended = await _stream(request, first, pieces, response)
          return ended or how, response
        content = await self.upstream.read(answer)
    except (aiohttp.ClientError, TimeoutError) as reason:
      self.upstream.log_once(reason)
      if how == "taught" and not isinstance(reason, TimeoutError):
        raise _GuidedFailed from None
      response = errors.no_answer(reason)
      response.headers.update(headers)
      return "failed", response
    odd = answer.status == 200 and how != "passed_through"
    odd = odd and not is_answer(content)
    if odd and how == "taught":
      raise _GuidedFailed
    response = errors.handed_on(answer.status, content, headers)
    return "failed" if odd or response.status >= 400 else how, response


async def _begun(first: bytes | None, pieces: AsyncIterator[bytes]) -> bytes:
  """The stream up to its first word.

  Raises:
    _GuidedFailed: it begins with an error, or has no word.
  """
  while first is not None:
    well = begins_well(first)
    if well or (well is None and len(first) > _LONGEST_START):
      return first
    more = None if well is False else await anext(pieces, None)
    first = None if more is None else first + more
  raise _GuidedFailed


async def _stream(
  request: web.Request,
  piece: bytes | None,
  pieces: AsyncIterator[bytes],
  response: web.StreamResponse,
) -> str | None:
  """Hands on each piece as it comes; None, or how it ended badly.

  Args:
    request: of the client.
    piece: the first one.
    pieces: the others, of the upstream.
    response: to the client.

  The status is out already, so an upstream that breaks off is told by an
  event that holds an error.
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
