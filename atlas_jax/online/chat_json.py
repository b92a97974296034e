"""Reads and judges a chat completion, whoever made it."""

import json

from atlas_jax.online.retrying import Answer, CallFailed

# Reasons to finish: of an answer that came to its end, and of one that was cut.
ENDED = (None, "stop", "eos", "eos_token", "end_turn", "stop_sequence")
CUT = ("length", "max_tokens")
_MOST_TOKENS = 10**9  # of one answer; more is a mistake, or mischief
# Values in one body: parsed, each takes up to 100 bytes and 0.1 us.
MOST_PARTS = 100_000


def parts_of(content: bytes) -> int:
  """How many values JSON in UTF-8 holds at most, found without parsing it.

  Each follows a bracket, a comma or a colon; those inside strings count only
  where there are too many of them to look closer.
  """

  def count(text: bytes) -> int:
    return sum(map(text.count, (b"{", b"[", b",", b":")))

  if (parts := count(content)) <= MOST_PARTS:
    return parts
  bare = content.replace(rb"\\", b"").replace(rb"\"", b"")
  # Of a string's two quotes each opening one follows a bracket, ... too.
  if (strings := bare.count(b'"') // 2) > MOST_PARTS:
    return strings
  return count(b"".join(bare.split(b'"')[::2]))


def parsed(content: bytes):
  """The JSON of a body.

  Raises:
    CallFailed: it is none, or nested beyond measure.
  """
  if parts_of(content) > MOST_PARTS:
    raise CallFailed(f"over {MOST_PARTS} values in a body", status="error")
  try:
    return json.loads(content.decode())
  except (ValueError, RecursionError):
    what = "broken JSON" if content.strip() else "an empty body"
    status = "error" if content.strip() else "empty"
    raise CallFailed(f"{what} with HTTP 200", status=status) from None


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
    counts = [
      count(usage.get(k)) for k in ("prompt_tokens", "completion_tokens")
    ]
    if declined and not text:
      raise CallFailed(f"the model declines: {declined}", again=False)
  except (AttributeError, KeyError, IndexError, TypeError, RecursionError):
    raise CallFailed("HTTP 200 without choices and a message") from None
  for name, value in (("content", text), ("finish_reason", reason)):
    if value is not None and not isinstance(value, str):
      raise CallFailed(f"the {name} is {type(value).__name__}, not text")
  if text is not None and not is_unicode(text):
    raise CallFailed("the content is not valid Unicode")
  return Answer(text, reason, *counts)


def is_unicode(text: str) -> bool:
  """Whether a file can hold it: JSON may escape half of a surrogate pair."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def count(value) -> int | None:
  """A count of tokens as it is; None for what can be none."""
  return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def judged(answer: Answer, max_tokens: int, accept_cut: bool) -> str:
  """The status of an answer that is one: ok or truncated.

  accept_cut: one that is cut before max_tokens counts as truncated.

  Raises:
    CallFailed: it is none.
  """
  if answer.finish_reason in CUT:
    tokens = answer.completion_tokens
    if tokens is None or tokens >= max_tokens or accept_cut:
      return "truncated"
    raise CallFailed(
      f"cut after {tokens} of {max_tokens} tokens", status="truncated"
    )
  if answer.finish_reason not in ENDED:
    reason = answer.finish_reason
    raise CallFailed(f"it ended with {reason!r}", again=reason == "abort")
  if not (answer.text or "").strip():
    raise CallFailed("an answer without text", status="empty")
  return "ok"
