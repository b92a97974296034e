"""Chat models: LiteLLM names, OpenAI-compatible URLs, Python functions."""

from collections.abc import Mapping

from atlas_jax import config_tree, targets
from atlas_jax.config import ConfigError
from atlas_jax.online.calls import variables
from atlas_jax.online.calls.calls import ChatModel
from atlas_jax.online.calls.chat import Chat
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.model_config import ChatModelConfig
from atlas_jax.online.calls.pricing import Price, extra_bound
from atlas_jax.online.calls.record import Record
from atlas_jax.scrubbing import answer_scrubber, scrubber


def open_model(
  config: ChatModelConfig,
  *,
  where: str,
  environ: Mapping[str, str],
  ledger: Ledger,
  record: Record,
  endpoint: str | None = None,
) -> ChatModel:
  """The model that `config` names; nothing is sent yet.

  Args:
    config: see ChatModelConfig.
    where: its place in the config, such as config.teacher, for errors.
    environ: environment variables, for the key.
    ledger, record: of the run.
    endpoint: what the record calls the server in place of its URL, when a
      run serves the model itself, each time at another port.

  Raises:
    ConfigError: a value is wrong, the key's variable is not set or no key,
      a library is not installed, or dollars are capped and the model has no
      price.
  """
  config = config_tree.build(ChatModelConfig, config, where)
  key = None
  if config.api_key_env is not None:
    key = variables.read(environ, config.api_key_env, f"{where}.api_key_env")
  calls = _calls(config, where, key)
  own = config.price_in is not None
  price = Price(
    (config.price_in, config.price_out) if own else calls.prices,
    own,
    extra_bound(config.extra),
  )
  if price.per_million is None and ledger.caps.dollars is not None:
    raise ConfigError(
      f"{where}: the price of {config.model or config.url} is not known, and"
      f" the run has a cap on dollars: give {where}.price_in and"
      f" {where}.price_out (dollars per million tokens; 0 is a price)"
    )
  limits = ledger.limits[config.url or config.model]
  limits.tighten(
    concurrency=config.concurrency,
    requests_per_minute=config.requests_per_minute,
    tokens_per_minute=config.tokens_per_minute,
  )
  return Chat(
    config,
    calls,
    where=where,
    ledger=ledger,
    record=record,
    limits=limits,
    endpoint=endpoint or config.url,
    price=price,
    scrub=scrubber(environ, key),
    scrub_own=answer_scrubber({}, key),
  )


def _calls(config: ChatModelConfig, where: str, key: str | None):
  if config.kind == "litellm":
    from atlas_jax.online.calls.litellm_calls import LiteLlmCalls

    return LiteLlmCalls(
      config.model,
      url=config.url,
      key=key,
      extra=config.extra,
      timeout_s=config.timeout_s,
      most_bytes=config.max_response_bytes,
      where=where,
    )
  if config.kind == "url":
    from atlas_jax.online.calls.url_calls import UrlCalls

    return UrlCalls(
      config.url,
      model=config.model,
      key=key,
      extra=config.extra,
      most_bytes=config.max_response_bytes,
      wording=config,
    )
  from atlas_jax.online.calls.callable_calls import CallableCalls

  function = targets.function(config.model, f"{where}.model", takes=2)
  return CallableCalls(function, name=config.model, extra=config.extra)
