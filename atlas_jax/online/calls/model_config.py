"""The config of one chat model."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from atlas_jax import addresses, secret_names
from atlas_jax.config_tree import (
  NonNegativeFloat,
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
)
from atlas_jax.online.calls.variables import VariableName
from atlas_jax.serving.http import MOST_BYTES

# Said by the request, by other keys of the config, or by the run.
_OURS = (
  *("model", "messages", "max_tokens", "temperature", "seed", "n", "stream"),
  *("timeout", "num_retries", "max_retries", "api_base", "base_url"),
)
# The caps bound a call by the prompt, extra and max_tokens alone.
_UNBOUNDED = (
  *("max_completion_tokens", "max_output_tokens", "best_of", "extra_body"),
  *("fallbacks", "context_window_fallback_dict", "model_list"),
  *("tools", "tool_choice", "functions", "web_search_options"),
  *("prediction", "modalities", "audio"),
)


@dataclass(frozen=True)
class Wording:
  """How a server is told the length and the sampling of an answer."""

  # How a request says its limit; newer models want max_completion_tokens.
  max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
  send_temperature: bool = True  # some models refuse one
  send_seed: bool = True  # some servers refuse one

  def worded(self, body: Mapping) -> dict:
    """A body with max_tokens, temperature and seed, as the server takes it."""
    body = dict(body)
    if "max_tokens" in body:
      body[self.max_tokens_key] = body.pop("max_tokens")
    if not self.send_temperature:
      body.pop("temperature", None)
    if not self.send_seed or body.get("seed") is None:
      body.pop("seed", None)
    return body


WORDS = ", ".join(field.name for field in dataclasses.fields(Wording))


@dataclass(frozen=True)
class ChatModelConfig(Wording):
  """A model that answers chat messages; see README.md for each kind.

  The wording is of the kinds url, local and litellm, which also leaves out
  what it knows that a provider refuses.
  """

  # local: the run starts its server.
  kind: Literal["litellm", "url", "callable", "local"] = "url"
  # litellm: a LiteLLM name (openai/gpt-5-mini, hosted_vllm/NAME, ...).
  # url: the name that the server knows; None: the one that it serves.
  # callable: "module:function".
  model: str | None = None
  # url: an OpenAI-compatible server; /v1 is added to a bare host. litellm:
  # its api_base, as LiteLLM wants it.
  url: str | None = None
  # The environment variable that holds the key. None: no key, or for litellm
  # the variable that its provider uses.
  api_key_env: VariableName | None = None
  concurrency: PositiveInt = 16  # requests under way at one time
  timeout_s: PositiveFloat = 120.0  # of one attempt
  retries: NonNegativeInt = 4  # attempts after the first
  requests_per_minute: PositiveFloat | None = None
  # Dollars per million tokens; 0 is a price. None: what LiteLLM says, else
  # unpriced, which a cap on dollars refuses.
  price_in: NonNegativeFloat | None = None
  price_out: NonNegativeFloat | None = None
  # Of one answer; more is an error, and is not read. callable: no bound.
  max_response_bytes: PositiveInt = MOST_BYTES
  extra: dict = field(default_factory=dict)  # sampling parameters: top_p, ...

  def conflicts(self) -> Iterator[str]:
    needed = "url" if self.kind == "url" else "model"
    if getattr(self, needed) is None:
      yield f"{needed} must be given with kind={self.kind!r}"
    if self.kind == "callable" and ":" not in (self.model or ":"):
      yield f"model={self.model!r} must be 'module:function'"
    if self.url is not None and (problem := addresses.problem(self.url)):
      yield f"url {problem}; a key goes by api_key_env"
    if (self.price_in is None) != (self.price_out is None):
      yield "price_in and price_out go together (dollars per million tokens)"
    for path, name, value in secret_names.named(self.extra):
      # There is no ${VARIABLE} here that a header could be filled from.
      held = isinstance(value, str) and secret_names.in_text(value)
      if held or secret_names.is_secret(name) or "headers" in name.lower():
        yield f"extra{path} may be secret; use api_key_env"
    for key in self.extra:
      if key in _OURS:
        yield f"extra.{key} is set by the run; leave it out"
      elif key in _UNBOUNDED:
        yield f"extra.{key} is not bounded by the caps; leave it out"
