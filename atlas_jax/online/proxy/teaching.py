"""Probe and teach within the deadline, by the protocol that all share."""

import asyncio

from atlas_jax.episode_config import ChatTemplateKwargs
from atlas_jax.online.outcomes import outcome_of
from atlas_jax.online.protocol import said_of
from atlas_jax.online.proxy.breaker import Breaker
from atlas_jax.online.proxy.chats import Chat
from atlas_jax.online.proxy.config import ProxyConfig
from atlas_jax.online.proxy.counters import Counters
from atlas_jax.online.proxy.endpoint import Endpoint
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.protocol import Question, TeachingProtocol
from atlas_jax.teaching.speakers import Ask, NoAnswer, Said

# The request itself was too long or not liked; the teacher is well.
_NOT_THE_TEACHERS_FAULT = (400, 413, 422)


class _Student:
  """The upstream as the one who is probed, after the client's own turns."""

  tokenizer = None

  def __init__(self, endpoint, chat, kwargs, until, authorization, counters):
    self._endpoint = endpoint
    self._chat = chat
    self._kwargs: ChatTemplateKwargs = kwargs
    self._until = until
    self._authorization = authorization
    self._counters = counters

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    body = self._chat.probe(prompt, ask.max_tokens, ask.temperature)
    if kwargs := self._kwargs.of(ask.role):
      body["chat_template_kwargs"] = kwargs
    _, reply = await self._endpoint.complete(
      body, until=self._until, authorization=self._authorization
    )
    self._counters.stage("probe", reply)
    return [said_of(reply, ask.role)]


class _Teacher:
  """The teacher for one request; `well` says what that told about it.

  fair_s: a teacher that answers nothing in this time counts as failing.
  """

  tokenizer = None

  def __init__(self, endpoint, kwargs, until, fair_s, counters):
    self._fair_s = fair_s
    self.well: bool | None = None
    self._endpoint = endpoint
    self._kwargs: ChatTemplateKwargs = kwargs
    self._until = until
    self._counters = counters

  async def say(self, prompt: str, ask: Ask) -> list[Said]:
    body = {
      "messages": [{"role": "user", "content": prompt}],
      "max_tokens": ask.max_tokens,
      "temperature": ask.temperature,
    }
    if kwargs := self._kwargs.of(ask.role):
      body["chat_template_kwargs"] = kwargs
    left_s = self._until - asyncio.get_running_loop().time()
    status, reply = await self._endpoint.complete(body, until=self._until)
    # A slow probe leaves no time in which any teacher could answer.
    hurried = reply.status == "timeout" and left_s < self._fair_s
    if status not in _NOT_THE_TEACHERS_FAULT and not hurried:
      self.well = reply.status not in ("error", "timeout")
    self._counters.stage("teach", reply)
    return [said_of(reply, ask.role)]


async def find_teaching(
  chat: Chat,
  *,
  upstream: Endpoint,
  teacher: Endpoint,
  prompts: Prompts,
  config: ProxyConfig,
  breaker: Breaker,
  counters: Counters,
  authorization: str | None,
) -> tuple[str, str | None]:
  """(outcome, teaching) after probe and teacher; at the deadline at the latest.

  The teacher reads the question and the probe, not the earlier turns: what a
  client told its own model is not sent to another one.
  """
  admitted = breaker.admit()
  if admitted is None:
    return "alone_down", None
  until = asyncio.get_running_loop().time() + config.teach_deadline_s
  kwargs = config.episode.chat_template_kwargs
  student = _Student(upstream, chat, kwargs, until, authorization, counters)
  fair_s = config.teach_deadline_s / 2
  teaches = _Teacher(teacher, kwargs, until, fair_s, counters)
  protocol = TeachingProtocol(student, teaches, prompts, config.episode)
  asked = Question(chat.question)
  try:
    probe = protocol.read(await protocol.probe(asked))
    (teaching,) = await protocol.teach(asked, probe)
  except NoAnswer as failure:
    return outcome_of(failure), None
  finally:
    breaker.report(admitted, teaches.well)
  return outcome_of(teaching), teaching.text
