"""Functions, addresses and names as the agents and models that are asked."""

import dataclasses
from collections.abc import Callable

from atlas_jax import addresses
from atlas_jax.config import ConfigError
from atlas_jax.online import variables
from atlas_jax.online.agents.python import InThisProcess
from atlas_jax.online.chat_json import judged
from atlas_jax.online.replies import Agent, ChatModel, ChatRequest, Reply
from atlas_jax.online.retrying import CallFailed
from atlas_jax.scrubbing import answer_scrubber, error_line
from atlas_jax.serving.http import MOST_BYTES


def as_agent(agent: Agent | Callable[[str], object]) -> Agent:
  """An Agent as it is; a function (sync or async) as an Agent.

  Raises:
    TypeError: it is neither.
  """
  if hasattr(agent, "ask"):
    return agent
  if callable(agent):
    return _Function(agent)
  raise TypeError(
    f"agent must be an open Agent or a function, got {type(agent).__name__}"
  )


def as_teacher(
  teacher: ChatModel | str, key: str | None, timeout_s: float
) -> ChatModel:
  """A ChatModel as it is; an address or a LiteLLM name as one.

  Args:
    teacher: the address may hold the model: http://HOST:PORT/v1#MODEL; without
      it, the server must have one model only.
    key: of a teacher that is named.
    timeout_s: of a LiteLLM call.

  Raises:
    ConfigError: LiteLLM is not installed or does not know the name, the
      address is not valid or holds a key, or the key has a control character.
    TypeError: it is neither.
  """
  if hasattr(teacher, "chat"):
    return teacher
  if not isinstance(teacher, str):
    raise TypeError(
      "teacher must be an open ChatModel, an address or a LiteLLM name, got"
      f" {type(teacher).__name__}"
    )
  if key is not None:
    variables.check_key(key, "teacher_key")
  if teacher.startswith(("http://", "https://")):
    from atlas_jax.online.url_calls import UrlCalls

    url, _, model = teacher.partition("#")
    if problem := addresses.problem(url):
      raise ConfigError(f"the teacher's address {problem}")
    calls = UrlCalls(
      url, model=model or None, key=key, extra={}, most_bytes=MOST_BYTES
    )
    return _Once(teacher, calls, key)
  from atlas_jax.online.litellm_calls import LiteLlmCalls

  calls = LiteLlmCalls(
    teacher,
    url=None,
    key=key,
    extra={},
    timeout_s=timeout_s,
    most_bytes=MOST_BYTES,
    where="teacher",
  )
  return _Once(teacher, calls, key)


class _Function:
  """A Python function as an Agent."""

  def __init__(self, function: Callable):
    self.name = getattr(function, "__qualname__", type(function).__name__)
    self._kind = InThisProcess(self.name, function)

  async def ask(self, prompt: str, **_) -> Reply:
    reply = (await self._kind.send(prompt)).reply
    error = None if reply.error is None else error_line(str, reply.error)
    return dataclasses.replace(reply, error=error)

  async def aclose(self) -> None:
    """Nothing is open."""


class _Once:
  """A teacher that is asked once: no retries, ledger or record.

  In production the first answer waits, and a question that comes again is a
  new one.
  """

  def __init__(self, name: str, calls, key: str | None):
    self.name = name
    self._hide = answer_scrubber({}, key)
    self._calls = calls

  async def chat(self, request: ChatRequest) -> Reply:
    try:
      answer = await self._calls.send(request)
    except CallFailed as failed:
      return Reply(failed.status, error="the call failed")
    tokens = {
      "prompt_tokens": answer.prompt_tokens,
      "completion_tokens": answer.completion_tokens,
    }
    try:
      status = judged(answer, request.max_tokens, accept_cut=True)
    except CallFailed as failed:
      return Reply(failed.status, error=str(failed), **tokens)
    return Reply(status, text=self._hide(answer.text or ""), **tokens)

  async def aclose(self) -> None:
    await self._calls.aclose()
