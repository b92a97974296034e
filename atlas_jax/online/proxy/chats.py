"""The body of a chat completion: what is asked, and the bodies made of it."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from atlas_jax.errors import AtlasError

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
# The other fields that clients of a chat completion send: OpenAI's, and the
# sampling of vLLM. What is not here may steer a server (api_base,
# extra_headers, kv_transfer_params, chat_template).
_SENT = """
messages stream stream_options n max_tokens max_completion_tokens temperature
top_p stop frequency_penalty presence_penalty logit_bias logprobs top_logprobs
tool_choice parallel_tool_calls function_call modalities prediction verbosity
web_search_options metadata store service_tier safety_identifier
prompt_cache_key prompt_cache_retention prompt_cache_options moderation
top_k min_p repetition_penalty length_penalty use_beam_search min_tokens
ignore_eos stop_token_ids include_stop_str_in_output bad_words
allowed_token_ids skip_special_tokens spaces_between_special_tokens
truncate_prompt_tokens prompt_logprobs return_token_ids
return_tokens_as_token_ids echo add_generation_prompt continue_final_message
add_special_tokens documents include_reasoning thinking_token_budget cache_salt
"""
_FIELDS = {*_STRUCTURED, *_OF_PROBE, *_SENT.split()}
PASS_REASONS = (*_STRUCTURED, "n", "media", "not_a_question", "too_long")


class BadRequest(AtlasError):
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


def read_chat(
  data: bytes, max_question_bytes: int, extra_fields: Collection[str] = ()
) -> Chat:
  """Reads a request.

  Args:
    data: in UTF-8, of at most MOST_PARTS values (chat_json.py).
    max_question_bytes: longer ones are not taught.
    extra_fields: that are passed on beside the known ones.

  Raises:
    BadRequest: not JSON, no messages in it, or a field that is not known.
  """
  try:
    body = json.loads(data.decode())
  except (ValueError, RecursionError) as error:
    raise BadRequest(f"the body is not JSON: {error}") from None
  messages = body.get("messages") if isinstance(body, dict) else None
  if (
    not isinstance(messages, list)
    or not messages
    or not all(isinstance(message, dict) for message in messages)
  ):
    raise BadRequest("'messages' must be a list of at least one message")
  if not isinstance(body.get("stream"), bool | None):
    raise BadRequest("'stream' must be true or false")
  unknown = [k for k in body if k not in _FIELDS and k not in extra_fields]
  if unknown:
    raise BadRequest(
      f"{unknown[0][:80]!r} is no field of a chat completion that is passed on"
    )
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
