"""The body of a chat completion: what is asked, and the bodies made of it."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from atlas_jax.online.production.errors import Refused
from atlas_jax.teaching.speakers import Ask

# A request that holds one of these is for a machine to read: words around the
# question would do harm. OpenAI's first, then those of vLLM, SGLang,
# llama.cpp and TGI.
_FOR_MACHINES = """
tools functions function_call response_format modalities audio prediction
structured_outputs guided_json guided_regex guided_choice guided_grammar
guided_json_object guided_decoding_backend guided_whitespace_pattern
allowed_token_ids grammar json_schema regex ebnf structural_tag
"""
_STRUCTURED = frozenset(_FOR_MACHINES.split())
# Values of these that ask for plain text.
_PLAIN = {
  "response_format": {"type": "text"},
  "modalities": ["text"],
  "function_call": "none",
}
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
tool_choice parallel_tool_calls verbosity
web_search_options metadata store service_tier safety_identifier
prompt_cache_key prompt_cache_retention prompt_cache_options moderation
top_k min_p repetition_penalty length_penalty use_beam_search min_tokens
ignore_eos stop_token_ids include_stop_str_in_output bad_words
skip_special_tokens spaces_between_special_tokens
truncate_prompt_tokens prompt_logprobs return_token_ids
return_tokens_as_token_ids echo add_generation_prompt continue_final_message
add_special_tokens documents include_reasoning thinking_token_budget cache_salt
"""
_FIELDS = _STRUCTURED.union(_OF_PROBE, _SENT.split())
_OTHER_REASONS = ("n", "media", "not_a_question", "too_long")
PASS_REASONS = (*sorted(_STRUCTURED), *_OTHER_REASONS)


@dataclass(frozen=True)
class ClientChat:
  """A client's request. question is None where it passes untaught."""

  body: Mapping
  question: str | None
  reason: str | None  # of PASS_REASONS, where it does

  def with_prompt(self, prompt: str) -> dict:
    """The request with `prompt` in place of the question."""
    earlier = self.body["messages"][:-1]
    last = {**self.body["messages"][-1], "content": prompt}
    return {**self.body, "messages": [*earlier, last]}

  def asking(self, prompt: str, ask: Ask) -> dict:
    """A request of ours: a probe after the same earlier turns, or a teaching.

    Both have the seed of the client.
    """
    limit = "max_tokens"
    if ask.role == "teacher":
      seed = self.body.get("seed")
      kept = {"seed": seed} if type(seed) is int else {}
      messages = [{"role": "user", "content": prompt}]
    else:
      kept = {key: self.body[key] for key in _OF_PROBE if key in self.body}
      messages = self.with_prompt(prompt)["messages"]
      # Newer models refuse max_tokens: the client knows its model's word.
      if "max_completion_tokens" in self.body:
        limit = "max_completion_tokens"
    length = {limit: ask.max_tokens, "temperature": ask.temperature}
    return {**kept, "messages": messages, **length}


def read_chat(
  data: bytes, max_question_bytes: int, extra_fields: Collection[str] = ()
) -> ClientChat:
  """Reads a request.

  Args:
    data: in UTF-8, of at most MOST_PARTS values (chat_json.py).
    max_question_bytes: longer ones are not taught.
    extra_fields: that are passed on beside the known ones.

  Raises:
    Refused: not JSON, no messages in it, or a field that is not known.
  """
  try:
    body = json.loads(data.decode())
  except (ValueError, RecursionError) as error:
    raise Refused(400, f"the body is not JSON: {error}") from None
  messages = body.get("messages") if isinstance(body, dict) else None
  is_list = isinstance(messages, list) and messages
  if not is_list or not all(isinstance(m, dict) for m in messages):
    raise Refused(400, "'messages' must be a list of at least one message")
  if not isinstance(body.get("stream"), (bool, type(None))):
    raise Refused(400, "'stream' must be true or false")
  for key in body:
    if key not in _FIELDS and key not in extra_fields:
      words = "is no field of a chat completion that is passed on"
      raise Refused(400, f"{key[:80]!r} {words}")
  reason, question = _structure(body, messages), None
  if reason is None:
    question = _text(messages[-1].get("content"))
    # JSON can hold half of a surrogate pair, which has no strict encoding.
    size = len(question.encode(errors="surrogatepass"))
    if size > max_question_bytes:
      reason, question = "too_long", None
  return ClientChat(body, question, reason)


def _structure(body: Mapping, messages: list[dict]) -> str | None:
  """Why a request is not one for a plain text; None: it is."""
  for key, value in body.items():
    if key in _STRUCTURED and value and value != _PLAIN.get(key):
      return key
  if body.get("n") not in (None, 1):
    return "n"
  for message in messages:
    if message.get("role") in ("tool", "function"):
      return "tools"
    if message.get("tool_calls") or message.get("function_call"):
      return "tools"
    if _text(message.get("content")) is None:
      return "media"
  last = messages[-1]
  plain = last.get("role") == "user" and _text(last["content"]).strip()
  return None if plain else "not_a_question"


def _text(content) -> str | None:
  """The words of a message's content; None if it holds more than words."""
  if isinstance(content, str):
    return content
  if not isinstance(content, list):
    return None
  texts = []
  for part in content:
    text = part.get("text") if isinstance(part, dict) else None
    if not isinstance(text, str) or part.get("type") != "text":
      return None
    texts.append(text)
  return "".join(texts)
