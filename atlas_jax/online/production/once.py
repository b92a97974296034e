"""Who is asked without retries, ledger and record, and what is logged of it."""

import dataclasses
import logging
from collections.abc import Callable

from atlas_jax import addresses
from atlas_jax.config_tree import ConfigError
from atlas_jax.online.agents import python
from atlas_jax.online.calls import models, variables
from atlas_jax.online.calls.asker import Asker
from atlas_jax.online.calls.calls import Reply, Request
from atlas_jax.online.calls.model_config import ChatModelConfig, Wording
from atlas_jax.online.calls.pricing import TokenPrice
from atlas_jax.scrubbing import answer_scrubber, scrubber
from atlas_jax.serving import http

log = logging.getLogger(__name__)


class Complaints:
  """Logs the first failure of each kind of one server, and no other.

  The words of a failure may be of a question, so its status alone is logged,
  and what may mend it; of a redirect the address and the host to go to.

  Args:
    who: answers, for the log.
    wording, key, address: the settings that say how it is asked, by which key,
      and where.
  """

  def __init__(self, who: str, *, wording: str, key: str, address: str):
    self._who = who
    self._mends = {400: wording, 422: wording, 401: key, 403: key, 404: address}
    self._logged: set[int | type] = set()

  def __call__(self, reason: Exception) -> None:
    if isinstance(reason.__cause__, http.Redirected):
      reason = reason.__cause__
    code = getattr(reason, "code", None)
    if (kind := code or type(reason)) in self._logged:
      return
    self._logged.add(kind)
    words = "brings no answer to a request of ours"
    if isinstance(reason, http.Redirected):
      sends = f"{reason.asked} redirects to {reason.origin}"
      words = f"{sends}, which is not followed"
    elif code is not None:
      words = f"answers a request of ours with HTTP {code}"
    if code in self._mends:
      words += f"; see {self._mends[code]}"
    log.warning("%s: %s (logged once)", self._who, words)


class _NamedTeacher(Asker):
  """A teacher at an address or by a name, whose failures are logged."""

  def __init__(self, teacher: str, name: str | None, transport, key):
    super().__init__(
      transport=transport,
      name=name,
      where="teacher",
      price=TokenPrice(None),
      scrub=scrubber({}, key),
      scrub_answer=answer_scrubber({}, key),
    )
    self._complain = Complaints(
      f"the teacher {addresses.bare(teacher)}",
      wording="wording, how its requests say their length and sampling",
      key="teacher_key",
      address="teacher, its address and the name of its model",
    )

  async def ask(self, request: Request) -> Reply:
    if self.limits.paused:  # no question waits for the server's pause
      return Reply("error", error="the server asked for a pause")
    reply = await super().ask(request)
    if reply.failed is None:
      return reply
    self._complain(reply.failed)
    # A model that declines is well, and has said nothing.
    declined = reply.failed.declined
    return dataclasses.replace(reply, status="empty") if declined else reply


def as_agent(agent: Asker | Callable[[str], object]) -> Asker:
  """An open agent as it is; a function as one; else TypeError."""
  if hasattr(agent, "ask"):
    return agent
  if callable(agent):
    name = getattr(agent, "__qualname__", type(agent).__name__)
    function = python.asking(name, agent)
    return Asker(transport=function, name=name, where="agent", is_agent=True)
  kind = type(agent).__name__
  raise TypeError(f"agent must be an open agent or a function, got {kind}")


def as_teacher(
  teacher: Asker | str, key: str | None, timeout_s: float, wording: Wording
) -> Asker:
  """An open model as it is; an address or a LiteLLM name as one.

  Raises:
    ConfigError: LiteLLM is not installed or does not know the name, the
      address is not valid or holds a key, or the key has a control character.
    TypeError: it is neither.
  """
  if hasattr(teacher, "ask"):
    return teacher
  if not isinstance(teacher, str):
    raise TypeError(
      "teacher must be an open model, an address or a LiteLLM name, got"
      f" {type(teacher).__name__}"
    )
  if key is not None:
    variables.check_key(key, "teacher_key")
  options = {"timeout_s": timeout_s, **vars(wording)}
  if teacher.startswith(("http://", "https://")):
    url, _, model = teacher.partition("#")
    if problem := addresses.problem(url):
      raise ConfigError(f"the teacher's address {problem}")
    config = ChatModelConfig(model=model or None, url=url, **options)
  else:
    config = ChatModelConfig(kind="litellm", model=teacher, **options)
  transport = models.transport_of(config, "teacher", key)
  return _NamedTeacher(teacher, config.model, transport, key)
