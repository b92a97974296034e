"""Reads and judges a chat completion, whoever made it."""

import json
import re

from atlas_jax.online.calls import told_errors
from atlas_jax.online.calls.calls import Answer, CallFailed
from atlas_jax.online.calls.cleaning import is_seen, is_unicode

# Words in reasons to finish, in lower case: the model declined; the server
# failed, which may pass by; the answer was cut. Any other is as good as none,
# so that no answer is thrown away for a new word.
_DECLINED = re.compile(
  "filter|safety|refus|recitation|block|prohibit|spii|guardrail|toxic|policy|sensit"
)
_BROKEN = re.compile(
  "error|malform|overload|abort|cancel|timeout|internal|unavail|insuffic|rate_li"
)
_CUT = re.compile("length|max_|limit|context|truncated|incomplete")
# Counts of tokens, by what providers call them.
_PROMPT = ("prompt_tokens", "input_tokens", "promptTokenCount")
_COMPLETION = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_TOTAL = ("total_tokens", "totalTokenCount")
_THOUGHT = ("reasoning_tokens", "thoughtsTokenCount")
_DETAILS = ("completion_tokens_details", "output_tokens_details")
_MOST_TOKENS = 10**9  # of one answer; more is a mistake, or mischief
# Values in one body: parsed, each takes up to 100 bytes and 0.1 us.
MOST_PARTS = 100_000
# One that does not close ends with the body: no start of it is tried again.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def parts_of(content: bytes) -> int:
  """How many values JSON in UTF-8 holds at most, found without parsing it.

  Each follows a bracket, a comma or a colon; those inside strings count only
  where there are too many of them to look closer.
  """

  def count(text: bytes) -> int:
    return sum(map(text.count, (b"{", b"[", b",", b":")))

  parts = count(content)
  return parts if parts <= MOST_PARTS else count(_STRING.sub(b"", content))


def parsed(content: bytes):
  """The JSON of a body.

  Raises:
    CallFailed: it is none, or nested beyond measure.
  """
  if len(content) > MOST_PARTS < parts_of(content):
    raise CallFailed(f"over {MOST_PARTS} values in a body")
  try:
    return json.loads(content.decode())
  except (ValueError, RecursionError):
    text = content.decode(errors="replace").strip()
    if (failed := told_errors.of_text(text)) is not None:
      failed.odd = text.startswith("<")
      raise failed from None
    if not text:
      why = "an empty body with HTTP 200"
      raise CallFailed(why, status="empty") from None
    odd = text[0] not in "[{"
    raise CallFailed("broken JSON with HTTP 200", odd=odd) from None


def answer_of(body) -> Answer:
  """What the JSON of a chat completion says.

  The text is the content alone: reasoning_content is private thinking.

  Raises:
    CallFailed: it is not one, or the model declined.
  """
  try:
    choices = body.get("choices") or [{}]
    for part in (body, choices[0]):
      if (failed := told_errors.of_json(part, "HTTP 200")) is not None:
        raise failed
    choice = choices[0]
    message = choice["message"]
    text = _words(message.get("content"))
    declined = message.get("refusal")
    reason = choice.get("finish_reason")
    counts = used(body.get("usage"))
    if declined and not text:
      raise CallFailed(
        f"the model declines: {declined}", again=False, declined=True
      )
  except (AttributeError, KeyError, IndexError, TypeError, RecursionError):
    raise CallFailed(
      "HTTP 200 without choices and a message", odd=True
    ) from None
  for name, value in (("content", text), ("finish_reason", reason)):
    if value is not None and not isinstance(value, str):
      kind = type(value).__name__
      raise CallFailed(f"the {name} is {kind}, not text", odd=True)
  if text is not None and not is_unicode(text):
    raise CallFailed("the content is not valid Unicode")
  return Answer(text, reason, *counts)


def _words(content):
  """The text of a content that may be a list of parts, without its thinking.

  Raises:
    CallFailed: a part is no text.
  """
  if not isinstance(content, list):
    return content
  texts = []
  for part in content:
    part = {"text": part} if isinstance(part, str) else part
    kind = part.get("type") or "text"
    if "thinking" in kind or "reasoning" in kind or part.get("thought"):
      continue
    if kind not in ("text", "output_text") or not isinstance(part["text"], str):
      raise CallFailed(f"a part of the content is {kind}, not text", odd=True)
    texts.append(part["text"])
  return "".join(texts)


def used(usage) -> tuple[int | None, int | None]:
  """(prompt, completion) tokens, the latter with all hidden thinking.

  Some providers count that in the total alone, or beside the completion.
  """
  if not isinstance(usage, dict):
    return None, None
  prompt = _first(usage, _PROMPT)
  completion = _first(usage, _COMPLETION)
  total = _first(usage, _TOTAL)
  thought = _first(usage, _THOUGHT) or 0
  for name in _DETAILS:
    if isinstance(details := usage.get(name), dict):
      thought = max(thought, _first(details, _THOUGHT) or 0)
  if completion is not None and thought > completion:
    completion += thought
  if prompt is not None and (total or 0) > prompt + (completion or 0):
    completion = total - prompt
  return prompt, completion


def _first(counts: dict, names: tuple[str, ...]) -> int | None:
  """The first of these that is a count of tokens."""
  for name in names:
    number = counts.get(name)  # 523.0 and "523" count too
    if isinstance(number, str) and re.fullmatch(r"\d{1,10}", number):
      number = int(number)
    if type(number) in (int, float) and 0 <= number <= _MOST_TOKENS:
      return int(number)
  return None


def is_answer(content: bytes) -> bool:
  """Whether the body of HTTP 200 is an answer with a text, ended or cut."""
  try:
    judge(answer_of(parsed(content)), 0, accept_cut=True)
  except CallFailed:
    return False
  return True


def begins_well(events: bytes) -> bool | None:
  """Whether whole lines of a stream hold a word or an end, before an error.

  None: neither has come yet.
  """
  for line in events.splitlines():
    data = line.removeprefix(b"data:").strip()
    if data == line.strip() or data == b"[DONE]":
      continue
    try:
      chunk = parsed(data)
      if told_errors.of_json(chunk, "an event") is not None:
        return False
      (choice, *_) = chunk["choices"] or [{}]
      said = dict(choice.get("delta") or {})
    except (CallFailed, AttributeError, LookupError, TypeError):
      return True  # it is for the client to read
    said.pop("role", None)
    if any(said.values()) or choice.get("finish_reason"):
      return True
  return None


def judge(answer: Answer, max_tokens: int, accept_cut: bool) -> str:
  """The status of an answer that is one: ok or truncated.

  accept_cut: one that is cut before max_tokens counts as truncated.

  Raises:
    CallFailed: it is none.
  """
  reason = (answer.finish_reason or "").strip().lower().replace("-", "_")
  for words, again in ((_DECLINED, False), (_BROKEN, True)):
    if reason != "stop" and words.search(reason):
      raise CallFailed(
        f"it ended with {answer.finish_reason!r}",
        again=again,
        declined=not again,
      )
  text = answer.text or ""
  if (failed := told_errors.of_text(text)) is not None:
    raise failed
  if reason != "stop" and _CUT.search(reason):
    tokens = answer.completion_tokens
    if tokens is None or tokens >= max_tokens or accept_cut:
      return "truncated"
    raise CallFailed(
      f"cut after {tokens} of {max_tokens} tokens", status="truncated"
    )
  if not is_seen(text):
    again = not answer.final
    raise CallFailed("an answer without text", status="empty", again=again)
  return "ok"
