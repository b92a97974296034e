"""One chat model over the wire, with the record, the ledger, and retries.

One call goes this way:
  1. the record knows the answer: it is returned, and costs nothing now;
  2. an equal call is under way: its answer serves both;
  3. each attempt waits for its endpoint's limits, reserves its bound in the
     ledger, is noted in the record, sent, judged, and settled;
  4. a failed attempt is tried again by the policy of calls.py.
"""

import asyncio
import hashlib
import json
import logging
import time

from atlas_jax.online.calls import asks
from atlas_jax.online.calls.calls import (
  BudgetSpent,
  CallFailed,
  ModelRefused,
  Reply,
  Request,
  pause_s,
)
from atlas_jax.online.calls.chat_json import judge
from atlas_jax.online.calls.record import Attempt, reply_of
from atlas_jax.online.calls.spend import Amount
from atlas_jax.scrubbing import error_line


class Chat:
  """A ChatModel over `calls`; see open_model for the arguments."""

  def __init__(
    self,
    config,
    calls,
    *,
    where,
    ledger,
    record,
    limits,
    endpoint,
    price,
    scrub,
    scrub_own,
  ):
    self.name = config.model or config.url
    self._config = config
    self._calls = calls
    self._where = where
    self._ledger = ledger
    self._record = record
    self._limits = limits
    self._endpoint = endpoint
    # A model that the run serves: it has another name at another server.
    self._own = endpoint != config.url
    self.price = price
    self._scrub = scrub
    self._scrub_own = scrub_own
    self._naming: asyncio.Task | None = None
    self._hopeless: str | None = None
    self._answered = False

  def __repr__(self) -> str:
    return f"<model {self.name} at {self._endpoint}>"

  async def aclose(self) -> None:
    await self._calls.aclose()

  async def chat(self, request: Request) -> Reply:
    """One answer; see ChatModel.

    Raises:
      BudgetSpent: the ledger has no room for it.
      ModelRefused: no call of this model can succeed.
    """
    try:
      self.name = await self._named()
    except CallFailed as failed:
      return Reply(failed.status, error=self._told(failed))
    asked = {
      "model": self.name,
      "base_url": self._endpoint,
      "messages": [dict(m) for m in request.messages],
      "max_tokens": request.max_tokens,
      "temperature": request.temperature,
      "seed": request.seed,
      "extra": self._config.extra | request.extra,
      "replicate": request.replicate,
    }
    named = {k: v for k, v in asked.items() if k != "model" or not self._own}
    text = json.dumps(named, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()
    reply = await asks.answered(
      self._ledger,
      self._record,
      key,
      lambda past: self._ask(key, asked, request, list(past)),
    )
    self._answered = self._answered or reply.ok
    return reply

  async def _named(self) -> str:
    """The model's name; those who wait for the server share one question."""
    if self._naming is None:
      self._naming = asyncio.create_task(self._ask_name())
    naming = self._naming
    try:
      return await asyncio.shield(naming)
    except (BudgetSpent, CallFailed, ModelRefused):
      if self._naming is naming:  # the next call asks again
        self._naming = None
      raise

  async def _ask_name(self) -> str:
    left = self._ledger.seconds_left
    if left is not None and left <= 0:
      # Without the name a run that starts again cannot read its record.
      return await self._calls.name()
    async with self._ledger.deadline():
      return await self._ask_name_again()

  async def _ask_name_again(self) -> str:
    for n in range(self._config.retries + 1):
      try:
        return await self._calls.name()
      except CallFailed as failed:
        self._give_up(failed)
        if not failed.again or n == self._config.retries:
          raise
        await asyncio.sleep(pause_s(failed, self._where, n))
    raise AssertionError("unreachable")

  async def _ask(self, key, asked, request, attempts: list[Attempt]) -> Reply:
    for n in range(self._config.retries + 1):
      failed, done = await self._attempt(
        key,
        asked,
        request,
        last=n == self._config.retries,
        before=tuple(attempts),
      )
      attempts.append(done)
      if failed is not None:
        self._give_up(failed)
      if failed is not None and failed.retry_after is not None:
        self._limits.pause(failed.retry_after)
      if done.final:
        break
      pause = pause_s(failed, key, n)
      logging.info("%s: %s; again in %.1f s", self._where, done.error, pause)
      await asyncio.sleep(pause)
    return reply_of(attempts, cached=False)

  async def _attempt(
    self, key, asked, request, *, last: bool, before: tuple[Attempt, ...]
  ) -> tuple[CallFailed | None, Attempt]:
    bound = self.price.bound(request)
    cut = any(a.status == "truncated" for a in before)
    failed = None

    async def send() -> Attempt:
      nonlocal failed
      answer = status = None
      began = time.monotonic()
      try:
        try:
          async with asyncio.timeout(self._config.timeout_s):
            answer = await self._calls.send(request)
        except TimeoutError:
          limit = f"no answer in {self._config.timeout_s:g} s"
          raise CallFailed(limit, status="timeout") from None
        status = judge(answer, request.max_tokens, cut or last)
      except CallFailed as error:
        failed, status = error, error.status
      final = failed is None or last or not failed.again
      if failed is not None and failed.odd:
        final |= any(a.error == self._told(failed) for a in before)
      shared = {
        "role": request.role,
        "model": self.name,
        "status": status,
        "bound": bound,
        "seconds": time.monotonic() - began,
        "error": None if failed is None else self._told(failed),
        "final": final and (failed is None or not self._dooms(failed)),
      }
      if answer is None:
        cost = None if failed.billed else Amount(calls=1)
        return Attempt(cost=cost, priced=True, **shared)
      cost, priced = self.price.cost(answer, request)
      if cost.tokens > bound.tokens or (priced and cost.pico > bound.pico):
        logging.warning(
          "%s: a call cost %d tokens, over its bound of %d; caps hold only"
          " for servers that keep to max_tokens",
          *(self._where, cost.tokens, bound.tokens),
        )
      return Attempt(
        cost=cost,
        priced=priced,
        text=self._scrub_own(answer.text or "") if failed is None else None,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        **shared,
      )

    async with self._limits.turn(bound.tokens) as used:
      if self._hopeless is not None:
        raise ModelRefused(self._hopeless)
      done = await asks.attempted(
        self._ledger,
        self._record,
        key=key,
        role=request.role,
        model=self.name,
        request=asked,
        bound=bound,
        send=send,
      )
      used((done.cost or bound).tokens)
    return failed, done

  def _dooms(self, failed: CallFailed) -> bool:
    return failed.hopeless(self._answered) is not None

  def _give_up(self, failed: CallFailed) -> None:
    """Raises ModelRefused, now and from now on, where nothing can succeed."""
    why = failed.hopeless(self._answered)
    if why is None:
      return
    key = self._config.api_key_env
    named = f" (api_key_env names {key})" if key else ""
    at = f" at {self._endpoint}" if self._endpoint else ""
    self._hopeless = (
      f"{self._where}: the server of {self.name}{at} {why}{named}; nothing"
      f" more is sent to it. It said: {self._told(failed)}"
    )
    raise ModelRefused(self._hopeless)

  def _told(self, failed: CallFailed) -> str:
    return error_line(self._scrub, str(failed))
