"""Probe and teach within the deadline, by the protocol that all share."""

import asyncio

from atlas_jax.online import protocol
from atlas_jax.online.outcomes import outcome_of
from atlas_jax.online.proxy.breaker import Breaker
from atlas_jax.online.proxy.chats import Chat
from atlas_jax.online.proxy.config import ProxyConfig
from atlas_jax.online.proxy.endpoint import Endpoint
from atlas_jax.online.replies import ChatRequest, Reply
from atlas_jax.teaching.prompts import Prompts

# The request itself was too long or not liked; the teacher is well.
_NOT_THE_TEACHERS_FAULT = (400, 413, 422)


class _Student:
  """The upstream as the one who is probed, after the client's own turns."""

  def __init__(self, endpoint, chat, probe, until, authorization):
    self.name = "upstream"
    self._endpoint = endpoint
    self._chat = chat
    self._probe = probe
    self._until = until
    self._authorization = authorization

  async def ask(self, prompt: str, **_) -> Reply:
    body = self._chat.probe(
      prompt, self._probe.max_tokens, self._probe.temperature
    )
    _, reply = await self._endpoint.complete(
      body, until=self._until, authorization=self._authorization
    )
    return reply


class _Teacher:
  """The teacher for one request; `well` says what that told about it.

  fair_s: a teacher that answers nothing in this time counts as failing.
  """

  def __init__(self, endpoint, until, fair_s):
    self.name = "teacher"
    self._fair_s = fair_s
    self.well: bool | None = None
    self._endpoint = endpoint
    self._until = until

  async def chat(self, request: ChatRequest) -> Reply:
    body = {
      "messages": list(request.messages),
      "max_tokens": request.max_tokens,
      "temperature": request.temperature,
    }
    left_s = self._until - asyncio.get_running_loop().time()
    status, reply = await self._endpoint.complete(body, until=self._until)
    # A slow probe leaves no time in which any teacher could answer.
    hurried = reply.status == "timeout" and left_s < self._fair_s
    if status not in _NOT_THE_TEACHERS_FAULT and not hurried:
      self.well = reply.status not in ("error", "timeout")
    return reply


async def find_teaching(
  chat: Chat,
  *,
  upstream: Endpoint,
  teacher: Endpoint,
  prompts: Prompts,
  config: ProxyConfig,
  breaker: Breaker,
  authorization: str | None,
) -> tuple[str, protocol.Taught | None]:
  """(outcome, attempt) after probe and teaching; at the deadline at the latest.

  The teacher reads the question and the approach, not the earlier turns: what
  a client told its own model is not sent to another one.
  """
  admitted = breaker.admit()
  if admitted is None:
    return "alone_down", None
  until = asyncio.get_running_loop().time() + config.teach_deadline_s
  asked = protocol.Question(chat.question, key="")
  student = _Student(upstream, chat, config.probe, until, authorization)
  teaches = _Teacher(teacher, until, config.teach_deadline_s / 2)
  try:
    probe = await protocol.ask_probe(student, prompts, asked)
    taught = await protocol.teach(teaches, prompts, config.teach, asked, probe)
  finally:
    breaker.report(admitted, teaches.well)
  return outcome_of(taught), taught
