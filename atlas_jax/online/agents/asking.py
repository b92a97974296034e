"""One way to ask every kind of agent: slots, deadline, retries, secrets.

A kind sends one prompt once (`Kind.send`); what is common stands here:
  1. a prompt that is not valid Unicode is refused before anything is sent;
  2. at most `concurrency` attempts are under way;
  3. an attempt that is late is cancelled: the kind then kills what it started;
  4. failures that pass by are tried again as retries.py waits, `retries`
     times at most, if the kind may be asked again at all;
  5. an answer of more than `max_response_bytes` is none;
  6. credentials are taken out of every text, and only then an error is cut.
"""

import asyncio
import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import regex

from atlas_jax import retries
from atlas_jax.online.agents import paths
from atlas_jax.online.agents.credentials import Credentials
from atlas_jax.online.calls import calls, threads, told_errors
from atlas_jax.online.calls.calls import Reply
from atlas_jax.online.calls.chat_json import is_unicode, judge, used
from atlas_jax.scrubbing import error_line
from atlas_jax.serving.http import TooLarge

_LONGEST_EXCERPT = 200  # characters


@dataclass(frozen=True)
class Attempt:
  """What one attempt gave.

  read says how the reply was read, for a person (None: it was not).
  transient: the failure may go away by itself, after retry_after_s if the
  agent said so. hopeless: why no other attempt can succeed either. said: all
  that the agent said, where the answer is a part of it.
  """

  reply: Reply
  read: str | None
  transient: bool = False
  retry_after_s: float | None = None
  hopeless: str | None = None
  said: str | None = None


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
  """An open agent; see calls.Agent. Ask it from one event loop.

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
    failure_regex: str | None,
    credentials: Credentials,
  ):
    self.name = name
    self.fingerprint = fingerprint
    self._kind = kind
    self._timeout_s = timeout_s
    self._retries = retries
    self._most_bytes = max_response_bytes
    self._failure = failure_regex and regex.compile(failure_regex)
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
          attempt = await self._looked_at(attempt)
      except Exception as error:
        if isinstance(error, TimeoutError) and clock.expired():
          attempt = late(f"no answer in {self._timeout_s:g} s")
        elif isinstance(error, calls.CallFailed):
          attempt = failed_as(error)
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
      error=None if reply.error is None else error_line(hide, reply.error),
    )
    transient = attempt.transient and self._kind.repeats
    return dataclasses.replace(attempt, reply=reply, transient=transient)

  async def _looked_at(self, attempt: Attempt) -> Attempt:
    """The attempt, or the failure that failure_regex makes of it."""
    said = attempt.said or attempt.reply.text
    if self._failure is None or not said:
      return attempt
    # Left behind at the deadline, a search ends by itself.
    found = await threads.call(
      lambda: self._failure.search(said, timeout=self._timeout_s)
    )
    if found is None:
      return attempt
    what = found[0][:_LONGEST_EXCERPT]
    return failed(f"failure_regex matches {what!r}", again=True)

  def shown(self, prompt: str) -> dict:
    """The request as it would be sent, secrets as ***."""
    return self._kind.shown(prompt)

  async def aclose(self) -> None:
    await self._kind.aclose()


def pause_s(attempt: Attempt, key: str, number: int) -> float:
  """Seconds to wait after the failed attempt `number` (from 0) of ask `key`."""
  return retries.pause_s(key, number, attempt.retry_after_s)


def answered(
  text: str | None,
  read: str,
  *,
  finish_reason: str | None = None,
  usage: Mapping | None = None,
  empty_is_transient: bool = False,
) -> Attempt:
  """An attempt that gave a text, judged as a chat completion is.

  usage: counts of tokens by any provider's names; what is none is None.
  """
  prompt, completion = used(usage)
  tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
  if text is not None and not is_unicode(text):
    return failed(f"{read}: the answer is not valid Unicode")
  try:
    answer = calls.Answer(text, finish_reason, **tokens)
    # An agent has limits of its own: wherever it was cut, it was cut.
    status = judge(answer, 0, accept_cut=True)
  except calls.CallFailed as why:
    attempt = failed_as(why)
    again = empty_is_transient if why.status == "empty" else why.again
    reply = dataclasses.replace(attempt.reply, **tokens)
    return dataclasses.replace(attempt, reply=reply, read=read, transient=again)
  return Attempt(Reply(status, text=text or "", **tokens), read)


def failed(error: str, **how) -> Attempt:
  """An attempt that failed; see calls.CallFailed for what is in `how`."""
  return failed_as(calls.CallFailed(error, **({"again": False} | how)))


def failed_as(why: calls.CallFailed) -> Attempt:
  """An attempt that failed as this call of a model would have."""
  reply = Reply(why.status, error=str(why))
  # 403 and 404 may be of one prompt.
  hopeless = why.hopeless(answered=True)
  return Attempt(reply, None, why.again, why.retry_after, hopeless)


def late(error: str) -> Attempt:
  """An attempt that was cut off at its deadline."""
  return failed(error, status="timeout", again=True)


def answer_at(reply, steps, how: str, read: str) -> str | None:
  """The answer in the JSON of a reply.

  Args:
    reply: its JSON.
    steps: where the answer is, from paths.parse.
    how, read: it came, and it is read, for errors.

  Raises:
    CallFailed: it tells of an error, or nothing stands there.
  """
  text = missing = None
  try:
    text = paths.text_at(reply, steps)
  except paths.NoSuchPath as absent:
    missing = absent
  answered = bool((text or "").strip())
  if (told := told_errors.of_json(reply, how, answered)) is not None:
    raise told
  if missing is not None:
    raise calls.CallFailed(f"{read}: {missing}", again=False)
  return text


def check_failure(reply, steps, how: str) -> None:
  """Raises CallFailed where something stands at a failure_path."""
  try:
    said = steps and paths.follow(reply, steps)
  except paths.NoSuchPath:
    return
  if said:
    raise calls.CallFailed(f"{how} with a failure: {json.dumps(said)}")
