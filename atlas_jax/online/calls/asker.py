"""Asks a model or an agent: one way for every kind of them.

A request goes straight down:
  1. the record knows the answer: it is returned, and costs nothing now;
  2. an equal request is under way: its answer serves both;
  3. each attempt waits for its endpoint's limits, reserves its bound in the
     ledger, is noted in the record, sent under the deadline, judged, settled;
  4. a failed attempt is tried again by the policy of calls.py.
Keys are taken out of every text, and only then an error is cut.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import regex

from atlas_jax import retries
from atlas_jax.online.calls.calls import (
  Answer,
  CallFailed,
  ModelRefused,
  Reply,
  Request,
  Transport,
  in_time,
)
from atlas_jax.online.calls.chat_json import judge
from atlas_jax.online.calls.cleaning import is_unicode
from atlas_jax.online.calls.functions import last_match
from atlas_jax.online.calls.joining import Joining
from atlas_jax.online.calls.ledger import Amount, Caps, Ledger
from atlas_jax.online.calls.limits import Limits
from atlas_jax.online.calls.pricing import CallPrice, TokenPrice
from atlas_jax.online.calls.record import Record
from atlas_jax.scrubbing import error_line
from atlas_jax.serving.http import TooLarge
from atlas_jax.teaching.speakers import STAGES


@dataclass(eq=False, repr=False, kw_only=True)
class Asker:
  """A model or an agent that can be asked. Ask it from one event loop."""

  transport: Transport  # carries one request
  # Who answers; None: the transport's find_name asks its server.
  name: str | None
  where: str  # its place in the config, such as config.teacher
  # All else that can change its answers, and no secret; `model` in it stands
  # for the name.
  identity: Mapping = field(default_factory=dict)
  key: str | None = None  # the variable that holds its key, for errors
  price: TokenPrice | CallPrice = CallPrice()  # noqa: RUF009 it is frozen
  timeout_s: float | None = None  # of one attempt; None: the caller has one
  retries: int = 0  # attempts after the first
  most_bytes: int | None = None  # of one answer; more is an error
  # A pattern that no answer holds; one that does has failed.
  failure: str | None = None
  # It reads the prompt alone, samples by itself, and has limits of its own:
  # wherever an answer was cut it was cut; a 403 or 404 may be of one prompt.
  is_agent: bool = False
  scrub: Callable[[str], str] = str  # takes keys out of errors
  scrub_answer: Callable[[str], str] = str  # ... and out of answers
  # Of the run. Without a record nothing is kept, and what no call can mend is a
  # failure like any other.
  ledger: Ledger = field(default_factory=lambda: Ledger(Caps()))
  record: Record | None = None
  limits: Limits = field(default_factory=Limits)

  def __post_init__(self):
    self._pattern = self.failure and regex.compile(self.failure)
    self._answered = self.is_agent
    self._refused: str | None = None
    self._joining = Joining()

  async def aclose(self) -> None:
    await self.transport.aclose()

  async def ask(self, request: Request) -> Reply:
    """One answer, never an exception for a failure of an attempt.

    Raises:
      BudgetSpent: the ledger has no room for it, or no time.
      ModelRefused: no request can succeed.
    """
    try:
      if not is_unicode(request.prompt):
        raise CallFailed("the prompt is not valid Unicode; nothing was sent")
      if self.name is None:
        await self._joining.once("", self._find_name)
    except CallFailed as failed:
      return Reply(failed.status, error=self._error(failed), failed=failed)
    asked = self._asked(request)
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()
    if self.record is not None and (known := self.record.reply(key)):
      self._answered |= known.ok
      return known
    return await self._joining.once(
      key, lambda: self._tries(key, asked, request)
    )

  def _asked(self, request: Request) -> dict:
    """What the record keeps of a request, and knows it by."""
    asked = {"replicate": request.replicate, "model": self.name}
    if self.is_agent:
      return asked | self.identity | {"prompt": request.prompt}
    names = ("messages", "max_tokens", "temperature", "seed", "template_kwargs")
    return asked | self.identity | {n: getattr(request, n) for n in names}

  async def _find_name(self) -> None:
    left = self.ledger.seconds_left
    # Without the name a run that starts again cannot read its record.
    late = left is not None and left <= 0
    async with contextlib.nullcontext() if late else self.ledger.deadline():
      for n in range(self.retries + 1):
        try:
          async with in_time(self.timeout_s):
            # A server may say its key in place of a name.
            self.name = self.scrub_answer(await self.transport.find_name())
          return
        except CallFailed as failed:
          last = late or n == self.retries
          if not await self._goes_on(failed, self.where, n, last):
            raise

  async def _tries(self, key: str, asked: dict, request: Request) -> Reply:
    """Attempts until one answers or none is left."""
    made: list[Reply] = []
    async with self.ledger.deadline():
      for n in range(self.retries + 1):
        last = n == self.retries or not self.transport.repeats
        made.append(await self._attempt(key, asked, request, made, last))
        failed = made[-1].failed
        if failed is None:
          self._answered = True
          break
        if not await self._goes_on(failed, key, n, last):
          break
    return replace(made[-1], seconds=sum(a.seconds for a in made))

  async def _goes_on(
    self, failed: CallFailed, key: str, attempt: int, last: bool
  ) -> bool:
    """Whether another attempt may follow; it waits until then.

    Raises:
      ModelRefused: nothing can succeed.
    """
    self.limits.pause(failed.retry_after or 0.0)
    self._give_up(failed)
    if last or not failed.again:
      return False
    pause = retries.pause_s(key, attempt, failed.retry_after)
    error = self._error(failed)
    logging.info("%s: %s; again in %.1f s", self.where, error, pause)
    await asyncio.sleep(pause)
    return True

  async def _attempt(
    self,
    key: str,
    asked: dict,
    request: Request,
    made: list[Reply],
    last: bool,
  ) -> Reply:
    """How one attempt ended, after those that were `made`."""
    bound = self.price.bound(request)
    cut = self.is_agent or last or any(a.status == "truncated" for a in made)
    async with self.limits.turn():
      if self._refused is not None:
        raise ModelRefused(self._refused)
      async with self.ledger.reserve(bound) as reservation:
        if self.record is not None:
          row = self.record.begin(key, request.role, self.name, asked, bound)
        began = time.monotonic()
        answer, failed, error = None, None, None
        try:
          async with in_time(self.timeout_s):
            answer = await self.transport.send(request)
            status = judge(answer, request.max_tokens or 0, cut)
            await self._look_at(answer)
        except CallFailed as raised:
          failed, status, error = raised, raised.status, self._error(raised)
          alike = any(a.error == error for a in made)
          failed.again &= not (failed.odd and alike)
        seconds = time.monotonic() - began
        if answer is not None:
          cost = self.price.cost(answer, request)
          self._check_bound(cost, bound)
        elif failed.billed:  # it may have been paid: lost
          cost = None
        else:  # an agent that fails was a call of it
          cost = bound if self.is_agent else Amount(calls=1)
        answer = answer or Answer(None, None)
        text = None if failed else self.scrub_answer(answer.text or "")
        ends = last or not (failed and failed.again)
        if status == "empty" and ends and request.role in STAGES:
          text = ""  # who says nothing has answered, and is not right
        counts = (answer.prompt_tokens, answer.completion_tokens)
        reply = Reply(status, text, *counts, seconds, error, failed)
        if self.record is not None:
          self.record.settle(row, reply, cost)
        reservation.cost = cost
    return reply

  async def _look_at(self, answer: Answer) -> None:
    """Raises CallFailed where an answer is too large or holds `failure`."""
    text = answer.text or ""
    size = len(text.encode(errors="surrogatepass"))
    if self.most_bytes is not None and size > self.most_bytes:
      raise CallFailed(str(TooLarge(self.most_bytes)), again=False)
    said = answer.said or text
    if self._pattern is None or not said:
      return
    found = await last_match(self._pattern, said, self.timeout_s)
    if found is not None:
      raise CallFailed(f"failure_regex matches {found[0]!r}")

  def _check_bound(self, cost: Amount, bound: Amount) -> None:
    over = cost.tokens > bound.tokens or cost.pico > bound.pico
    if over and not self.is_agent:
      logging.warning(
        "%s: a call cost %d tokens, over its bound of %d; caps hold only"
        " for servers that keep to max_tokens",
        *(self.where, cost.tokens, bound.tokens),
      )

  def _give_up(self, failed: CallFailed) -> None:
    """Raises ModelRefused, now and from now on, where nothing can succeed."""
    why = failed.hopeless(self._answered)
    if why is None or self.record is None:
      return
    who = "the agent" if self.is_agent else "the server of"
    named = f" (api_key_env names {self.key})" if self.key else ""
    self._refused = (
      f"{self.where}: {who} {self.name} {why}{named}; nothing more is sent"
      f" to it. It said: {self._error(failed)}"
    )
    raise ModelRefused(self._refused)

  def _error(self, failed: CallFailed) -> str:
    return error_line(self.scrub, str(failed))
