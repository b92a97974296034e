"""The body of a chat completion: what is asked, and the bodies made of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

# A request that holds one of these is for a machine to read: words around the
# question would do harm.
_STRUCTURED = (
  *("tools", "functions", "response_format", "structured_outputs", "audio"),
  *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)
# What a probe keeps of the client's request beside the messages.
_OF_PROBE = (
  *("model", "user", "seed", "chat_template_kwargs", "reasoning_effort"),
)
PASS_REASONS = (*_STRUCTURED, "n", "media", "not_a_question", "too_long")


class BadRequest(ValueError):
  """The body is no chat completion request; the text says why."""


@dataclass(frozen=True)
class Chat:
  """A request. question is None where it passes untaught, for `reason`."""

  body: Mapping
  question: str | None
  reason: str | None

  @property
  def stream(self) -> bool:
    return self.body.get("stream") is True

  def with_prompt(self, prompt: str) -> dict:
    """The request with `prompt` in place of the question."""
    earlier = self.body["messages"][:-1]
    last = {**self.body["messages"][-1], "content": prompt}
    return {**self.body, "messages": [*earlier, last]}

  def probe(self, prompt: str, max_tokens: int, temperature: float) -> dict:
    """A short request of our own, after the same earlier turns."""
    # Newer models refuse max_tokens: say it as the client does.
    newer = "max_completion_tokens" in self.body
    kept = {key: self.body[key] for key in _OF_PROBE if key in self.body}
    return {
      **kept,
      "messages": self.with_prompt(prompt)["messages"],
      "max_completion_tokens" if newer else "max_tokens": max_tokens,
      "temperature": temperature,
    }


def read_chat(data: bytes, max_question_bytes: int) -> Chat:
  """Reads a request.

  Raises:
    BadRequest: not JSON, or no messages in it.
  """
  try:
    body = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise BadRequest(f"the body is not JSON: {error}") from None
  messages = body.get("messages") if isinstance(body, dict) else None
  if (
    not isinstance(messages, list)
    or not messages
    or not all(isinstance(message, dict) for message in messages)
  ):
    raise BadRequest("'messages' must be a list of at least one message")
  question, reason = _question(body, messages)
  if question is not None:
    # JSON can hold half of a surrogate pair, which has no strict encoding.
    size = len(question.encode(errors="surrogatepass"))
    if size > max_question_bytes:
      question, reason = None, "too_long"
  return Chat(body, question, reason)


def _question(body, messages) -> tuple[str | None, str | None]:
  for key in _STRUCTURED:
    plain = key == "response_format" and body.get(key) == {"type": "text"}
    if body.get(key) and not plain:
      return None, key
  if body.get("n") not in (None, 1):
    return None, "n"
  texts = []
  for message in messages:
    if message.get("role") == "tool" or message.get("tool_calls"):
      return None, "tools"
    texts.append(_text(message.get("content")))
  if None in texts:
    return None, "media"
  if messages[-1].get("role") != "user" or not texts[-1].strip():
    return None, "not_a_question"
  return texts[-1], None


def _text(content) -> str | None:
  """The words of a message's content; None if it holds more than words."""
  if isinstance(content, str):
    return content
  if not isinstance(content, list):
    return None
  texts = [
    part.get("text")
    for part in content
    if isinstance(part, dict) and part.get("type") == "text"
  ]
  if len(texts) < len(content) or not all(isinstance(t, str) for t in texts):
    return None
  return "".join(texts)
