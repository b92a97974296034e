"""Functions, addresses and names as the agents and models that are asked."""

import dataclasses
from collections.abc import Callable

from atlas_jax import addresses
from atlas_jax.config import ConfigError
from atlas_jax.online.agents.python import InThisProcess
from atlas_jax.online.calls import variables
from atlas_jax.online.calls.calls import Agent, ChatModel, Reply, Request
from atlas_jax.online.calls.url_calls import UrlCalls, Wording
from atlas_jax.online.production.once import Complaints, reply_of
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
  teacher: ChatModel | str, key: str | None, timeout_s: float, wording: Wording
) -> ChatModel:
  """A ChatModel as it is; an address or a LiteLLM name as one.

  Args:
    teacher: the address may hold the model: http://HOST:PORT/v1#MODEL; without
      it, the server must have one model only.
    key: of a teacher that is named.
    timeout_s: of a LiteLLM call.
    wording: of requests to an address.

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
  shared = {"key": key, "extra": {}, "most_bytes": MOST_BYTES}
  if not teacher.startswith(("http://", "https://")):
    from atlas_jax.online.calls.litellm_calls import LiteLlmCalls

    calls = LiteLlmCalls(
      teacher, url=None, timeout_s=timeout_s, where="teacher", **shared
    )
    return _AskedOnce(teacher, calls, key)
  url, _, model = teacher.partition("#")
  if problem := addresses.problem(url):
    raise ConfigError(f"the teacher's address {problem}")
  calls = UrlCalls(url, model=model or None, wording=wording, **shared)
  return _AskedOnce(teacher, calls, key)


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


class _AskedOnce:
  """A teacher at an address or by a name."""

  def __init__(self, name: str, calls, key: str | None):
    self.name = name
    self._hide = answer_scrubber({}, key)
    self._calls = calls
    self._complain = Complaints(
      f"the teacher {addresses.bare(name)}",
      wording="wording, how its requests say their length and sampling",
      key="teacher_key",
      address="teacher, its address and the name of its model",
    )

  async def chat(self, request: Request) -> Reply:
    reply = await reply_of(self._calls.send(request), self._complain)
    text = None if reply.text is None else self._hide(reply.text)
    return dataclasses.replace(reply, text=text)

  async def aclose(self) -> None:
    await self._calls.aclose()
