"""Models of every provider that LiteLLM knows.

LiteLLM is imported at the first use: it takes seconds. It reads two of its
settings from the environment while it is imported, so they are set here:
prices come from the package and not from the network, and a .env file that
happens to lie in the working directory is left alone. Its HTTP clients, made
in four places, are bound to our policy there.
"""

import dataclasses
import functools
import math
import os

from atlas_jax.config import ConfigError
from atlas_jax.online.calls import httpx_policy
from atlas_jax.online.calls.calls import (
  Answer,
  CallFailed,
  Request,
  Transport,
  refused,
  untaken,
)
from atlas_jax.online.calls.chat_json import answer_of
from atlas_jax.online.calls.model_config import WORDS, ChatModelConfig

# The other tariffs that a table may hold; asked for by extra.service_tier.
_TIERS = ("batches", "flex", "priority")
_CHEAPER = ("cache_read",)


@functools.cache
def _library():
  os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
  os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
  import litellm
  from litellm.llms.custom_httpx import http_handler
  from litellm.llms.openai.common_utils import BaseOpenAILLM

  litellm.suppress_debug_info = True
  for owner, name in (
    (http_handler.AsyncHTTPHandler, "create_client"),
    (http_handler.HTTPHandler, "create_client"),
    (BaseOpenAILLM, "_get_async_http_client"),
    (BaseOpenAILLM, "_get_sync_http_client"),
  ):
    bound = httpx_policy.bound(getattr(owner, name))
    static = isinstance(vars(owner)[name], staticmethod)
    setattr(owner, name, staticmethod(bound) if static else bound)
  return litellm


class LiteLlmCalls(Transport):
  """Calls one LiteLLM model. Its own retries and cache stay off.

  Args:
    config: its model is a LiteLLM name such as openai/gpt-5-mini, its url the
      api_base, its extra also mock_response.
    key: None: LiteLLM reads the variable of the provider.
    where: the config key, for errors.

  Raises:
    ConfigError: LiteLLM is not installed, or knows no provider for the name
      that keeps to our policy.
  """

  def __init__(self, config: ChatModelConfig, key: str | None, where: str):
    model, url, extra = config.model, config.url, config.extra
    try:
      self._litellm = _library()
    except ImportError as error:
      raise ConfigError(
        f"{where}.kind='litellm' needs the extra `online`"
        f" (pip install -e '.[online]'): {error}"
      ) from None
    try:
      known = self._litellm.get_llm_provider(model, api_base=url)
    except self._litellm.BadRequestError:
      raise ConfigError(
        f"{where}.model: LiteLLM knows no provider for {model!r}; write"
        " PROVIDER/NAME, such as openai/gpt-5-mini or hosted_vllm/NAME"
      ) from None
    if known[1] == "aiohttp_openai":
      raise ConfigError(
        f"{where}.model: {known[1]} follows redirects with the key; write"
        " openai/NAME"
      )
    missing = self._litellm.validate_environment(model)["missing_keys"]
    # Where more than keys are missing, there are other ways in.
    keys = [name for name in missing if name.endswith(("_API_KEY", "_TOKEN"))]
    given = key or known[2] or "mock_response" in extra
    if keys and keys == missing and not given:
      raise ConfigError(
        f"{where}.api_key_env: {model} needs a key; set the variable"
        f" {' or '.join(missing)}, or name the one that holds it"
      )
    self._config = config
    self._fixed = extra | {"api_base": url, "api_key": key}
    self.prices = self._table(extra)

  def _table(self, extra: dict) -> tuple[float, float] | None:
    """The most that (prompt, completion) cost, dollars a million tokens."""
    try:
      info = self._litellm.get_model_info(self._config.model)
    except Exception:  # it raises bare ones for a model that it lacks
      return None
    skipped = _CHEAPER + (() if "service_tier" in extra else _TIERS)

    def most(*kinds: str) -> float:
      return 1e6 * max(
        value
        for key, value in info.items()
        if key.startswith(kinds)
        and "token" in key
        and isinstance(value, int | float)
        and not any(word in key for word in skipped)
      )

    if None in map(info.get, ("input_cost_per_token", "output_cost_per_token")):
      return None
    return most("input_cost_per_token", "cache_creation_"), most("output_cost_")

  async def send(self, request: Request) -> Answer:
    """See Transport."""
    taking = httpx_policy.Taking(self._config.max_response_bytes)
    try:
      response = await self._litellm.acompletion(
        model=self._config.model,
        messages=request.messages,
        timeout=self._config.timeout_s,
        num_retries=0,
        max_retries=0,
        # Providers differ in what they take: a seed, say.
        drop_params=True,
        **self._config.worded(request.sampling),
        **self._fixed,
      )
    except Exception as error:
      # LiteLLM guesses what an error is by numbers that stand in its text.
      if taking.refused is not None:
        raise untaken(taking.refused) from taking.refused
      raise _failed(error) from None
    body = response.model_dump()
    answer = answer_of(body)
    counted = (body.get("usage") or {}).get("completion_tokens")
    cost = response._hidden_params.get("response_cost")
    # It is worked out from the counts, even where those make no sense or leave
    # out the thinking.
    if (
      None in (answer.prompt_tokens, answer.completion_tokens)
      or counted != answer.completion_tokens
      or (cost is not None and not (math.isfinite(cost) and cost >= 0))
    ):
      cost = None
    return dataclasses.replace(answer, dollars=cost)


def _failed(error: Exception) -> CallFailed:
  """LiteLLM's exceptions carry the HTTP status, sometimes one of its own."""
  text = f"{type(error).__name__}: {error}"
  code = getattr(error, "status_code", None)
  if code is None:
    return CallFailed(text, again=False)
  code, headers = int(code), getattr(error, "litellm_response_headers", None)
  failed = refused(code, text, headers or {}, see=WORDS)
  if failed.code != code:  # a key that is missing here, say
    return failed
  # 200: what came could not be read. Without headers, 408 and 500 are its own
  # for a deadline and a lost connection: the call may have been made.
  if code == 200 or (code in (408, 500) and headers is None):
    failed.again = failed.billed = True
  return failed
