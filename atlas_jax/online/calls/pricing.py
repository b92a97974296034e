"""What a call may cost at most, and what it did cost."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from atlas_jax.online.calls.calls import Answer, Request
from atlas_jax.online.calls.spend import Amount, picodollars

# A chat template may put a system prompt of its own before the messages.
_TEMPLATE_TOKENS = 128
_MESSAGE_TOKENS = 8


def prompt_bound(request: Request) -> int:
  """At least the tokens of a request's messages: one has a byte or more."""
  return _TEMPLATE_TOKENS + sum(
    len(value.encode()) + _MESSAGE_TOKENS
    for message in request.messages
    for value in message.values()
  )


def extra_bound(extra: Mapping) -> int:
  """At least the prompt's tokens of what goes with every request.

  A schema of the answer, say, is a part of the prompt.
  """
  return len(json.dumps(extra).encode()) if extra else 0


@dataclass(frozen=True)
class Price:
  """Of one model.

  per_million: (prompt, completion) in dollars per million tokens, or None.
  own: it is the user's, and holds against what a library says of a call.
  fixed_tokens: at least those of the prompt that are not of the messages.
  """

  per_million: tuple[float, float] | None
  own: bool = False
  fixed_tokens: int = 0

  def bound(self, request: Request) -> Amount:
    """The most that one attempt can cost."""
    return self._amount(self._prompt_bound(request), request.max_tokens)

  def cost(self, answer: Answer, request: Request) -> tuple[Amount, bool]:
    """(cost, whether its dollars are known) of an answer that came.

    Counts that the server does not say are taken at their bound: it may have
    thought before it spoke.
    """
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    if prompt is None:
      prompt = self._prompt_bound(request)
    if completion is None:
      completion = request.max_tokens
      if answer.text_is_all:
        spoken = len((answer.text or "").encode()) + _MESSAGE_TOKENS
        completion = min(completion, spoken)
    cost = self._amount(prompt, completion)
    if answer.dollars is not None and not self.own:
      pico = picodollars(answer.dollars)
      return dataclasses.replace(cost, pico=pico), True
    return cost, self.per_million is not None

  def _prompt_bound(self, request: Request) -> int:
    extra = extra_bound(request.extra)
    return self.fixed_tokens + extra + prompt_bound(request)

  def _amount(self, prompt: int, completion: int) -> Amount:
    # Dollars a million tokens are picodollars a token, times a million.
    a, b = (round(p * 1e6) for p in self.per_million or (0, 0))
    return Amount(1, prompt + completion, prompt * a + completion * b)
