"""One way to ask every kind of agent: slots, deadline, retries, accounts.

A kind sends one prompt once (`Kind.send`); what is common stands here:
  1. a prompt that is not valid Unicode is refused before anything is sent;
  2. at most `concurrency` attempts are under way;
  3. each attempt is made by the meter, which keeps accounts of it;
  4. an attempt that is late is cancelled: the kind then kills what it started;
  5. failures that pass by are tried again, after Retry-After or a doubling
     wait, `retries` times at most;
  6. credentials are taken out of every text.
"""

import asyncio
import dataclasses
import email.utils
import hashlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from atlas_jax.online.agents.credentials import Credentials
from atlas_jax.online.replies import Reply

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
# Of HTTP: what may go away by itself, beside every 5xx.
TRANSIENT_STATUSES = (408, 409, 425, 429)
# How models and servers call an answer that was cut, or refused.
_CUT = ("length", "max_tokens", "max_output_tokens", "max_length")
_REFUSED = ("content_filter", "refusal", "safety", "blocked", "error")


@dataclass(frozen=True)
class Attempt:
  """What one attempt gave.

  read says how the reply was read, for a person (None: it was not).
  transient: the failure may go away by itself, after retry_after_s if the
  agent said so.
  """

  reply: Reply
  read: str | None
  transient: bool = False
  retry_after_s: float | None = None


@dataclass(frozen=True)
class AgentCall:
  """One attempt that is about to be made; what a ledger needs to know."""

  agent: str
  fingerprint: str
  role: str
  prompt: str
  seed: int | None
  replicate: int
  attempt: int  # 1, 2, ...


Send = Callable[[], Awaitable[Attempt]]
# Makes one attempt by calling `send` once, and keeps accounts of it; it may
# wait before, or raise BudgetSpent.
Meter = Callable[[AgentCall, Send], Awaitable[Attempt]]


class Kind(Protocol):
  """What is particular to one kind of agent."""

  target: str  # what is asked, without secrets

  def shown(self, prompt: str) -> dict:
    """The request as it would be sent, secrets as ***."""

  async def send(self, prompt: str) -> Attempt:
    """One attempt; when cancelled it leaves nothing running."""

  async def aclose(self) -> None: ...


async def unmetered(call: AgentCall, send: Send) -> Attempt:
  """A meter that counts nothing."""
  return await send()


class AskedAgent:
  """An open agent; see replies.Agent. Ask it from one event loop.

  name: its kind and what is asked. fingerprint: sha256 of everything in its
  config that can change its answers; neither holds a secret.
  """

  def __init__(
    self,
    kind: Kind,
    *,
    name: str,
    fingerprint: str,
    timeout_s: float,
    retries: int,
    concurrency: int,
    credentials: Credentials,
    meter: Meter,
  ):
    self.name = name
    self.fingerprint = fingerprint
    self._kind = kind
    self._timeout_s = timeout_s
    self._retries = retries
    self._slots = asyncio.Semaphore(concurrency)
    self._credentials = credentials
    self._meter = meter

  async def ask(
    self, prompt: str, *, role: str, seed: int | None, replicate: int
  ) -> Reply:
    """One answer, after retries; an agent samples by itself, not by the seed.

    Raises:
      BudgetSpent: the meter has no room for an attempt.
    """
    start = time.monotonic()
    for number in range(1, self._retries + 2):
      call = AgentCall(
        self.name, self.fingerprint, role, prompt, seed, replicate, number
      )
      async with self._slots:
        attempt = await self._meter(call, lambda: self.attempt(prompt))
      if not attempt.transient or number > self._retries:
        break
      await asyncio.sleep(self._wait_s(attempt, call))
    return dataclasses.replace(
      attempt.reply, attempts=number, seconds=time.monotonic() - start
    )

  async def attempt(self, prompt: str) -> Attempt:
    """One attempt under the deadline, not metered; never an exception."""
    start = time.monotonic()
    if not _is_unicode(prompt):
      attempt = failed("the prompt is not valid Unicode; nothing was sent")
    else:
      try:
        async with asyncio.timeout(self._timeout_s) as clock:
          attempt = await self._kind.send(prompt)
      except TimeoutError:
        if not clock.expired():
          raise
        attempt = late(f"no answer in {self._timeout_s:g} s")
    reply = attempt.reply
    hide, answer = self._credentials.hide, self._credentials.hide_in_answer
    reply = dataclasses.replace(
      reply,
      seconds=time.monotonic() - start,
      text=None if reply.text is None else answer(reply.text),
      error=None if reply.error is None else hide(reply.error),
    )
    return dataclasses.replace(attempt, reply=reply)

  def shown(self, prompt: str) -> dict:
    """The request as it would be sent, secrets as ***."""
    return self._kind.shown(prompt)

  async def aclose(self) -> None:
    await self._kind.aclose()

  def _wait_s(self, attempt: Attempt, call: AgentCall) -> float:
    if attempt.retry_after_s is not None:
      return min(max(attempt.retry_after_s, 0.0), _LONGEST_WAIT_S)
    # Seeded by the call, so that equal agents do not come back together.
    digest = hashlib.sha256(call.prompt.encode("utf-8", "replace")).hexdigest()
    jitter = random.Random(f"{digest} {call.replicate} {call.attempt}").random()
    doubled = _FIRST_WAIT_S * 2 ** (call.attempt - 1)
    return min(doubled * (0.5 + jitter), _LONGEST_WAIT_S)


def answered(
  text: str | None,
  read: str,
  *,
  finish_reason: str | None = None,
  prompt_tokens: int | None = None,
  completion_tokens: int | None = None,
  empty_is_transient: bool = False,
) -> Attempt:
  """An attempt that gave a text: ok, truncated, empty, or refused."""
  tokens = {
    "prompt_tokens": prompt_tokens,
    "completion_tokens": completion_tokens,
  }
  reason = (finish_reason or "").lower()
  if reason in _REFUSED:
    error = f"the agent ended with {finish_reason!r}"
    return Attempt(Reply("error", error=error, **tokens), read)
  if text is not None and not _is_unicode(text):
    return failed(f"{read}: the answer is not valid Unicode")
  if reason in _CUT:
    return Attempt(Reply("truncated", text=text, **tokens), read)
  if text is None or not text.strip():
    reply = Reply("empty", text=text, error="the answer is empty", **tokens)
    return Attempt(reply, read, transient=empty_is_transient)
  return Attempt(Reply("ok", text=text, **tokens), read)


def failed(
  error: str, *, transient: bool = False, retry_after_s: float | None = None
) -> Attempt:
  """An attempt that failed."""
  return Attempt(Reply("error", error=error), None, transient, retry_after_s)


def late(error: str) -> Attempt:
  """An attempt that was cut off at its deadline."""
  return Attempt(Reply("timeout", error=error), None, True)


def retry_after_s(retry_after: str | None) -> float | None:
  """Seconds to wait by a Retry-After of either form; None: it says none."""
  if retry_after is None:
    return None
  try:
    return float(retry_after)
  except ValueError:
    try:
      when = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
      return None
    return when.timestamp() - time.time()


def _is_unicode(text: str) -> bool:
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True
