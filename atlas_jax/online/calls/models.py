"""Chat models: LiteLLM names, OpenAI-compatible URLs, Python functions."""

from collections.abc import Mapping

from atlas_jax import config_tree, targets
from atlas_jax.config import ConfigError
from atlas_jax.online.calls.asker import Asker
from atlas_jax.online.calls.calls import Answer, Request, Transport
from atlas_jax.online.calls.functions import FunctionCalls
from atlas_jax.online.calls.ledger import Caps, Ledger
from atlas_jax.online.calls.model_config import ChatModelConfig
from atlas_jax.online.calls.pricing import TokenPrice
from atlas_jax.online.calls.record import Record
from atlas_jax.online.calls.variables import Credentials
from atlas_jax.scrubbing import answer_scrubber, scrubber


def open_model(
  config: ChatModelConfig,
  *,
  where: str,
  environ: Mapping[str, str],
  ledger: Ledger | None = None,
  record: Record | None = None,
  endpoint: str | None = None,
) -> Asker:
  """The model that `config` names; nothing is sent yet.

  Args:
    config: see ChatModelConfig.
    where: its place in the config, such as config.teacher, for errors.
    environ: environment variables, for the key.
    ledger, record: of the run; without them nothing is counted or kept.
    endpoint: what the record calls the server in place of its URL, when a
      run serves the model itself, each time at another port.

  Raises:
    ConfigError: a value is wrong, the key's variable is not set or no key,
      a library is not installed, or dollars are capped and the model has no
      price.
  """
  config = config_tree.build(ChatModelConfig, config, where)
  key = Credentials(environ).key(config.api_key_env, where)
  transport = transport_of(config, where, key)
  own = config.price_in is not None
  prices = (config.price_in, config.price_out) if own else transport.prices
  if prices is None and ledger is not None and ledger.caps.dollars is not None:
    raise ConfigError(
      f"{where}: the price of {config.model or config.url} is not known, and"
      f" the run has a cap on dollars: give {where}.price_in and"
      f" {where}.price_out (dollars per million tokens; 0 is a price)"
    )
  ledger = ledger or Ledger(Caps())
  limits = ledger.limits[config.url or config.model]
  limits.tighten(config.concurrency, config.requests_per_minute)
  identity = {"base_url": endpoint or config.url, "extra": config.extra}
  if endpoint is not None:  # it has another name at another server
    identity["model"] = None
  return Asker(
    transport=transport,
    name=config.model,
    where=where,
    identity=identity,
    key=config.api_key_env,
    price=TokenPrice(prices, own, config.extra),
    timeout_s=config.timeout_s,
    retries=config.retries,
    scrub=scrubber(environ, key),
    scrub_answer=answer_scrubber({}, key),
    ledger=ledger,
    record=record,
    limits=limits,
  )


def transport_of(
  config: ChatModelConfig, where: str, key: str | None
) -> Transport:
  """What carries requests to the model of a config; see open_model.

  A function is called with a list of messages and a dict of max_tokens,
  temperature, seed, replicate and the config's extra. None means no answer.
  """
  if config.kind == "litellm":
    from atlas_jax.online.calls.litellm_calls import LiteLlmCalls

    return LiteLlmCalls(config, key, where)
  if config.kind == "url":
    from atlas_jax.online.calls.url_calls import UrlCalls

    return UrlCalls(config, key)
  function = targets.function(config.model, f"{where}.model", takes=2)

  def arguments(request: Request) -> tuple[list[dict], dict]:
    sampling = config.extra | request.sampling
    return request.messages, sampling | {"replicate": request.replicate}

  def answer(said: str | None) -> Answer:
    return Answer(said, "stop", text_is_all=True)

  return FunctionCalls(config.model, function, arguments, answer)
