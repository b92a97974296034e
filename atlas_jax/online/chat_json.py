"""Reads and judges a chat completion, whoever made it."""

from collections.abc import Mapping

from atlas_jax.online.retrying import Answer, CallFailed

_ENDED = (None, "stop", "eos", "eos_token", "end_turn", "stop_sequence")
_CUT = ("length", "max_tokens")


def answer_of(body) -> Answer:
  """What the JSON of a chat completion says.

  The text is the content alone: reasoning_content is private thinking.

  Raises:
    CallFailed: it is not one, or the model declined.
  """
  try:
    if body.get("error"):
      raise CallFailed(f"an error with HTTP 200: {body['error']}")
    choice = body["choices"][0]
    message = choice["message"]
    text = message.get("content")
    declined = message.get("refusal")
    reason = choice.get("finish_reason")
    usage = body.get("usage") or {}
    counts = [_count(usage, k) for k in ("prompt_tokens", "completion_tokens")]
  except (AttributeError, KeyError, IndexError, TypeError):
    raise CallFailed("HTTP 200 without choices and a message") from None
  if text is not None and not isinstance(text, str):
    raise CallFailed(f"the content is {type(text).__name__}, not text")
  if declined and not text:
    raise CallFailed(f"the model declines: {declined}", again=False)
  return Answer(text, reason, *counts)


def _count(usage: Mapping, key: str) -> int | None:
  value = usage.get(key)
  return value if type(value) is int and value >= 0 else None


def judged(answer: Answer, max_tokens: int, accept_cut: bool) -> str:
  """The status of an answer that is one: ok or truncated.

  accept_cut: one that is cut before max_tokens counts as truncated.

  Raises:
    CallFailed: it is none.
  """
  if answer.finish_reason in _CUT:
    count = answer.completion_tokens
    if count is None or count >= max_tokens or accept_cut:
      return "truncated"
    raise CallFailed(
      f"cut after {count} of {max_tokens} tokens", status="truncated"
    )
  if answer.finish_reason not in _ENDED:
    reason = answer.finish_reason
    raise CallFailed(f"it ended with {reason!r}", again=reason == "abort")
  if not (answer.text or "").strip():
    raise CallFailed("an answer without text", status="empty")
  return "ok"
