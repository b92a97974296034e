"""What one attempt may cost at most, and what it did cost."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from atlas_jax.online.calls.calls import Answer, Request
from atlas_jax.online.calls.ledger import Amount, picodollars

# Around the message; a template may put a system prompt of its own before it.
_TEMPLATE_TOKENS = 148
_END_TOKENS = 8


@dataclass(frozen=True)
class TokenPrice:
  """Of one model.

  per_million: (prompt, completion) in dollars per million tokens, or None.
  own: it is the user's, and holds against what a library says of a call.
  extra: what goes with every request; a schema of the answer, say, is a part
  of the prompt.
  """

  per_million: tuple[float, float] | None
  own: bool = False
  extra: Mapping | None = None

  @property
  def is_known(self) -> bool:
    return self.per_million is not None

  def bound(self, request: Request) -> Amount:
    """The most that one attempt can cost."""
    return self._amount(self._prompt_bound(request), request.max_tokens)

  def cost(self, answer: Answer, request: Request) -> Amount:
    """Of an answer that came.

    Counts that the server does not say are taken at their bound: it may have
    thought before it spoke.
    """
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    if prompt is None:
      prompt = self._prompt_bound(request)
    if completion is None:
      completion = request.max_tokens
      if answer.text_is_all:
        spoken = len((answer.text or "").encode()) + _END_TOKENS
        completion = min(completion, spoken)
    cost = self._amount(prompt, completion)
    if answer.dollars is not None and not self.own:
      return replace(cost, pico=picodollars(answer.dollars))
    return replace(cost, unpriced=int(not self.is_known))

  def _prompt_bound(self, request: Request) -> int:
    """At least the tokens of a prompt: each has a byte or more."""
    texts = [json.dumps(e) for e in (self.extra, request.extra) if e]
    size = sum(len(text.encode()) for text in (*texts, request.prompt))
    return _TEMPLATE_TOKENS + size

  def _amount(self, prompt: int, completion: int) -> Amount:
    # Dollars a million tokens are picodollars a token, times a million.
    a, b = (round(p * 1e6) for p in self.per_million or (0, 0))
    return Amount(1, prompt + completion, prompt * a + completion * b)


@dataclass(frozen=True)
class CallPrice:
  """Of an agent, which does not say beforehand what it will use.

  dollars: of each call; None: unpriced. Tokens are counted as far as the agent
  tells them.
  """

  dollars: float | None = None

  @property
  def is_known(self) -> bool:
    return self.dollars is not None

  def bound(self, request: Request) -> Amount:
    """The most that one attempt can cost, of what can be known."""
    del request
    return Amount(1, 0, picodollars(self.dollars or 0.0))

  def cost(self, answer: Answer, request: Request) -> Amount:
    """See TokenPrice.cost."""
    tokens = (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)
    unpriced = int(not self.is_known)
    return replace(self.bound(request), tokens=tokens, unpriced=unpriced)
