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
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

import regex

from atlas_jax import retries
from atlas_jax.online.calls import threads
from atlas_jax.online.calls.calls import (
  Answer,
  CallFailed,
  ModelRefused,
  Reply,
  Request,
  Transport,
)
from atlas_jax.online.calls.chat_json import is_unicode, judge
from atlas_jax.online.calls.ledger import NOTHING, Amount, Caps, Ledger
from atlas_jax.online.calls.limits import Limits
from atlas_jax.online.calls.pricing import CallPrice, TokenPrice
from atlas_jax.online.calls.record import Record
from atlas_jax.scrubbing import error_line
from atlas_jax.serving.http import TooLarge
from atlas_jax.teaching.speakers import STAGES

_LONGEST_EXCERPT = 200  # characters


@dataclasses.dataclass
class _Work:
  """Something under way, and how many wait for it."""

  task: asyncio.Task
  waiting: int = 0


class Asker:
  """A model or an agent that can be asked. Ask it from one event loop.

  Args:
    transport: carries one request.
    name: of who answers; None: the transport's find_name asks its server.
    where: its place in the config, such as config.teacher.
    identity: all else that can change its answers, and no secret; `model` in
      it stands for the name.
    key: the variable that holds its key, for errors.
    price: of its calls.
    timeout_s: of one attempt; None: the caller has a deadline.
    retries: attempts after the first.
    most_bytes: of one answer; more is an error.
    failure: a pattern that no answer holds; one that does has failed.
    is_agent: it reads the prompt alone, samples by itself, and has limits of
      its own: wherever an answer was cut it was cut, and a 403 or 404 may be
      of one prompt.
    scrub, scrub_answer: take keys out of errors, and out of answers.
    ledger, record, limits: of the run. Without a record nothing is kept, and
      what no call can mend is a failure like any other.
  """

  def __init__(
    self,
    transport: Transport,
    *,
    name: str | None,
    where: str,
    identity: Mapping | None = None,
    key: str | None = None,
    price: TokenPrice | CallPrice = CallPrice(),  # noqa: B008 it is frozen
    timeout_s: float | None = None,
    retries: int = 0,
    most_bytes: int | None = None,
    failure: str | None = None,
    is_agent: bool = False,
    scrub: Callable[[str], str] = str,
    scrub_answer: Callable[[str], str] = str,
    ledger: Ledger | None = None,
    record: Record | None = None,
    limits: Limits | None = None,
  ):
    self.transport, self.name, self.price = transport, name, price
    self._where, self._identity, self._key = where, identity or {}, key
    self._timeout_s, self._retries = timeout_s, retries
    self._most_bytes = most_bytes
    self._failure = failure and regex.compile(failure)
    self._is_agent = self._answered = is_agent
    self._scrub, self._scrub_answer = scrub, scrub_answer
    self._ledger, self._record = ledger or Ledger(Caps()), record
    self._limits = limits or Limits()
    self._refused: str | None = None
    self._under_way: dict[str, _Work] = {}

  def __repr__(self) -> str:
    return f"<{self.name} at {self.transport.target}>"

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
        await self._once("", self._find_name)
    except CallFailed as failed:
      error = self._error(failed)
      return Reply(failed.status, cost=NOTHING, error=error, failed=failed)
    asked = self._asked(request)
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()
    if self._record is not None and (known := self._record.reply(key)):
      self._answered |= known.ok
      return known
    joined = key in self._under_way
    reply = await self._once(key, lambda: self._tries(key, asked, request))
    return dataclasses.replace(reply, cached=True) if joined else reply

  def _asked(self, request: Request) -> dict:
    """What the record keeps of a request, and knows it by."""
    asked = {"replicate": request.replicate, "model": self.name}
    if self._is_agent:
      return asked | self._identity | {"prompt": request.prompt}
    names = ("messages", "max_tokens", "temperature", "seed", "template_kwargs")
    return asked | self._identity | {n: getattr(request, n) for n in names}

  async def _once(self, key: str, work: Callable[[], Awaitable]):
    """What `work` brings; who wants the same meanwhile shares it."""
    if key not in self._under_way:
      task = asyncio.create_task(work())
      self._under_way[key] = _Work(task)
      # Called before any of those who wait goes on.
      task.add_done_callback(lambda done: self._forget(key, done))
    shared = self._under_way[key]
    shared.waiting += 1
    try:
      return await asyncio.shield(shared.task)
    except asyncio.CancelledError:
      if shared.waiting == 1 and not shared.task.done():
        self._forget(key, shared.task)  # who asks now begins anew
        shared.task.cancel()
        # Its attempt is settled before the caller goes on, to close the record.
        await asyncio.wait([shared.task])
      raise
    finally:
      shared.waiting -= 1

  def _forget(self, key: str, task: asyncio.Task) -> None:
    if key in self._under_way and self._under_way[key].task is task:
      del self._under_way[key]

  async def _find_name(self) -> None:
    left = self._ledger.seconds_left
    # Without the name a run that starts again cannot read its record.
    late = left is not None and left <= 0
    async with contextlib.nullcontext() if late else self._ledger.deadline():
      for n in range(self._retries + 1):
        try:
          # A server may say its key in place of a name.
          self.name = self._scrub_answer(await self.transport.find_name())
          return
        except CallFailed as failed:
          self._give_up(failed)
          if late or not failed.again or n == self._retries:
            raise
          await self._pause(failed, self._where, n)

  async def _tries(self, key: str, asked: dict, request: Request) -> Reply:
    """Attempts until one answers or none is left."""
    made: list[Reply] = []
    async with self._ledger.deadline():
      for n in range(self._retries + 1):
        last = n == self._retries or not self.transport.repeats
        ends = await self._attempt(key, asked, request, made, last)
        failed = made[-1].failed
        if failed is not None:
          self._limits.pause(failed.retry_after or 0.0)
          self._give_up(failed)
        if ends:
          break
        await self._pause(failed, key, n)
    self._answered |= failed is None
    return dataclasses.replace(
      made[-1],
      cost=sum((a.cost or NOTHING for a in made), NOTHING),
      priced=all(a.priced for a in made),
      seconds=sum(a.seconds for a in made),
      attempts=len(made),
    )

  async def _pause(self, failed: CallFailed, key: str, attempt: int) -> None:
    pause = retries.pause_s(key, attempt, failed.retry_after)
    error = self._error(failed)
    logging.info("%s: %s; again in %.1f s", self._where, error, pause)
    await asyncio.sleep(pause)

  async def _attempt(
    self,
    key: str,
    asked: dict,
    request: Request,
    made: list[Reply],
    last: bool,
  ) -> bool:
    """Appends one attempt to `made`; whether it is the outcome."""
    bound = self.price.bound(request)
    cut = self._is_agent or last or any(a.status == "truncated" for a in made)
    async with self._limits.turn():
      if self._refused is not None:
        raise ModelRefused(self._refused)
      async with self._ledger.reserve(bound) as reservation:
        if self._record is not None:
          row = self._record.begin(key, request.role, self.name, asked, bound)
        began = time.monotonic()
        answer, end = await self._sent(request, cut)
        seconds = time.monotonic() - began
        failed = end if isinstance(end, CallFailed) else None
        status = failed.status if failed else end
        error = self._error(failed) if failed else None
        ends = failed is None or last or not failed.again
        if failed is not None and failed.odd:
          ends |= any(a.error == error for a in made)
        if answer is None:
          cost, priced = self.price.cost_of(failed), True
        else:
          cost, priced = self.price.cost(answer, request)
          self._check_bound(cost, priced, bound)
        text = None if failed else self._scrub_answer(answer.text or "")
        if status == "empty" and ends and request.role in STAGES:
          text = ""  # who says nothing has answered, and is not right
        counts = answer and (answer.prompt_tokens, answer.completion_tokens)
        counts = counts or (None, None)
        done = Reply(status, text, *counts, cost, priced, seconds)
        made.append(dataclasses.replace(done, error=error, failed=failed))
        if self._record is not None:
          self._record.settle(row, made[-1])
        if cost is not None:
          reservation.settle(cost, priced=priced)
    return ends

  async def _sent(
    self, request: Request, accept_cut: bool
  ) -> tuple[Answer | None, str | CallFailed]:
    """(what came, its status or why it is no answer), under the deadline."""
    answer = None
    try:
      async with asyncio.timeout(self._timeout_s) as clock:
        answer = await self.transport.send(request)
        status = judge(answer, request.max_tokens or 0, accept_cut)
        await self._look_at(answer)
      return answer, status
    except CallFailed as failed:
      return answer, failed
    except Exception as error:
      if isinstance(error, TimeoutError) and clock.expired():
        late = f"no answer in {self._timeout_s:g} s"
        return answer, CallFailed(late, status="timeout")
      # What others send is not ours: it ends an attempt, and no run.
      text = f"{type(error).__name__}: {error}"
      return answer, CallFailed(text, again=False)

  async def _look_at(self, answer: Answer) -> None:
    """Raises CallFailed where an answer is too large or holds `failure`."""
    text = answer.text or ""
    size = len(text.encode(errors="surrogatepass"))
    if self._most_bytes is not None and size > self._most_bytes:
      raise CallFailed(str(TooLarge(self._most_bytes)), again=False)
    said = answer.said or text
    if self._failure is None or not said:
      return
    # Left behind at the deadline, a search ends by itself.
    found = await threads.call(
      lambda: self._failure.search(said, timeout=self._timeout_s)
    )
    if found is not None:
      # Before it is cut: half of a key would not be known as one.
      said = self._scrub(found[0])[:_LONGEST_EXCERPT]
      raise CallFailed(f"failure_regex matches {said!r}")

  def _check_bound(self, cost: Amount, priced: bool, bound: Amount) -> None:
    over = cost.tokens > bound.tokens or (priced and cost.pico > bound.pico)
    if over and not self._is_agent:
      logging.warning(
        "%s: a call cost %d tokens, over its bound of %d; caps hold only"
        " for servers that keep to max_tokens",
        *(self._where, cost.tokens, bound.tokens),
      )

  def _give_up(self, failed: CallFailed) -> None:
    """Raises ModelRefused, now and from now on, where nothing can succeed."""
    why = failed.hopeless(self._answered)
    if why is None or self._record is None:
      return
    who = f"the agent {self.name}"
    if not self._is_agent:
      at = f" at {self.transport.target}" if self.transport.target else ""
      who = f"the server of {self.name}{at}"
    named = f" (api_key_env names {self._key})" if self._key else ""
    self._refused = (
      f"{self._where}: {who} {why}{named}; nothing more is sent to it."
      f" It said: {self._error(failed)}"
    )
    raise ModelRefused(self._refused)

  def _error(self, failed: CallFailed) -> str:
    return error_line(self._scrub, str(failed))
