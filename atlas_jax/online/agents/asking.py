"""One way to ask every kind of agent: slots, deadline, retries, secrets.

A kind sends one prompt once (`Kind.send`); what is common stands here:
  1. a prompt that is not valid Unicode is refused before anything is sent;
  2. at most `concurrency` attempts are under way;
  3. an attempt that is late is cancelled: the kind then kills what it started;
  4. failures that pass by are tried again as retrying.py waits, `retries`
     times at most, if the kind may be asked again at all;
  5. an answer of more than `max_response_bytes` is none;
  6. credentials are taken out of every text, and only then an error is cut.
"""

import asyncio
import dataclasses
import datetime
import json
import time
from dataclasses import dataclass
from typing import Protocol

from atlas_jax.online import retrying
from atlas_jax.online.agents import paths
from atlas_jax.online.agents.credentials import Credentials
from atlas_jax.online.chat_json import count, is_unicode, judged
from atlas_jax.online.replies import Reply
from atlas_jax.scrubbing import told
from atlas_jax.serving.http import TooLarge

_TRANSIENT = (408, 409, 425, 429)
# What some servers say where a chat completion says length.
_CUT = ("max_output_tokens", "max_length")


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


class Kind(Protocol):
  """What is particular to one kind of agent."""

  target: str  # what is asked, without secrets
  repeats: bool  # whether an attempt that failed may be made again

  def shown(self, prompt: str) -> dict:
    """The request as it would be sent, secrets as ***."""

  async def send(self, prompt: str) -> Attempt:
    """One attempt; when cancelled it leaves nothing running."""

  async def aclose(self) -> None: ...


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
    max_response_bytes: int,
    credentials: Credentials,
  ):
    self.name = name
    self.fingerprint = fingerprint
    self._kind = kind
    self._timeout_s = timeout_s
    self._retries = retries
    self._most_bytes = max_response_bytes
    self._slots = asyncio.Semaphore(concurrency)
    self._credentials = credentials

  async def ask(
    self, prompt: str, *, role: str, seed: int | None, replicate: int
  ) -> Reply:
    """One answer, after retries; an agent samples by itself, not by the seed.

    Nothing is counted here: who keeps accounts makes each `attempt` itself.
    """
    del role, seed
    seconds = 0.0
    for number in range(self._retries + 1):
      async with self._slots:
        attempt = await self.attempt(prompt)
      seconds += attempt.reply.seconds
      if not attempt.transient or number == self._retries:
        break
      key = f"{self.fingerprint} {replicate} {prompt}"
      await asyncio.sleep(pause_s(attempt, key, number))
    return dataclasses.replace(
      attempt.reply, attempts=number + 1, seconds=seconds
    )

  async def attempt(self, prompt: str) -> Attempt:
    """One attempt under the deadline; never an exception.

    What an agent sends is not ours: a reply that no reader was made for is a
    failure of this attempt, not the end of a run.
    """
    start = time.monotonic()
    if not is_unicode(prompt):
      attempt = failed("the prompt is not valid Unicode; nothing was sent")
    else:
      try:
        async with asyncio.timeout(self._timeout_s) as clock:
          attempt = await self._kind.send(prompt)
      except Exception as error:
        if isinstance(error, TimeoutError) and clock.expired():
          attempt = late(f"no answer in {self._timeout_s:g} s")
        else:
          attempt = failed(f"{type(error).__name__}: {error}")
    if len((attempt.reply.text or "").encode()) > self._most_bytes:
      attempt = failed(str(TooLarge(self._most_bytes)))
    reply = attempt.reply
    hide, answer = self._credentials.hide, self._credentials.hide_in_answer
    reply = dataclasses.replace(
      reply,
      seconds=time.monotonic() - start,
      text=None if reply.text is None else answer(reply.text),
      error=None if reply.error is None else told(hide, reply.error),
    )
    transient = attempt.transient and self._kind.repeats
    return dataclasses.replace(attempt, reply=reply, transient=transient)

  def shown(self, prompt: str) -> dict:
    """The request as it would be sent, secrets as ***."""
    return self._kind.shown(prompt)

  async def aclose(self) -> None:
    await self._kind.aclose()


def pause_s(attempt: Attempt, key: str, number: int) -> float:
  """Seconds to wait after the failed attempt `number` (from 0) of ask `key`."""
  failure = retrying.CallFailed(
    attempt.reply.status, retry_after=attempt.retry_after_s
  )
  return retrying.pause_s(failure, key, number)


def answered(
  text: str | None,
  read: str,
  *,
  finish_reason: str | None = None,
  prompt_tokens: int | None = None,
  completion_tokens: int | None = None,
  empty_is_transient: bool = False,
) -> Attempt:
  """An attempt that gave a text, judged as a chat completion is.

  Token counts that are none are None.
  """
  tokens = {
    "prompt_tokens": count(prompt_tokens),
    "completion_tokens": count(completion_tokens),
  }
  reason = (finish_reason or "").lower() or None
  if reason in _CUT:
    reason = "length"
  if text is not None and not is_unicode(text):
    return failed(f"{read}: the answer is not valid Unicode")
  try:
    answer = retrying.Answer(text, reason, **tokens)
    # An agent has limits of its own: wherever it was cut, it was cut.
    status = judged(answer, 0, accept_cut=True)
  except retrying.CallFailed as why:
    reply = Reply(why.status, error=str(why), **tokens)
    again = empty_is_transient if why.status == "empty" else why.again
    return Attempt(reply, read, transient=again)
  return Attempt(Reply(status, text=text or "", **tokens), read)


def failed(
  error: str, *, transient: bool = False, retry_after_s: float | None = None
) -> Attempt:
  """An attempt that failed."""
  return Attempt(Reply("error", error=error), None, transient, retry_after_s)


def late(error: str) -> Attempt:
  """An attempt that was cut off at its deadline."""
  return Attempt(Reply("timeout", error=error), None, True)


class ErrorTold(Exception):
  """A JSON reply tells of an error in place of an answer; str() is its text."""


def answer_at(reply, steps) -> str | None:
  """The answer in the JSON of a reply.

  Args:
    reply: its JSON; an error stands at its top.
    steps: where the answer is, from paths.parse.

  Raises:
    ErrorTold: there is an error, and no answer.
    NoSuchPath: there is neither.
  """
  text = missing = None
  try:
    text = paths.text_at(reply, steps)
  except paths.NoSuchPath as absent:
    missing = absent
  error = reply.get("error") if isinstance(reply, dict) else None
  if error and not (text or "").strip():
    raise ErrorTold(error if isinstance(error, str) else json.dumps(error))
  if missing is not None:
    raise missing
  return text


def may_pass(code: int) -> bool:
  """Whether what an HTTP status means may go away by itself."""
  return code in _TRANSIENT or code >= 500


def retry_after_s(header: str | None) -> float | None:
  """Seconds to wait by a Retry-After header; None: it does not say."""
  if header is None:
    return None
  return retrying.retry_after(header, datetime.datetime.now(datetime.UTC))
