"""An AgentConfig made into an agent that can be asked."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from atlas_jax import config_tree
from atlas_jax.config import ConfigError
from atlas_jax.online.agents import agents_sdk, cli, http, python, responses
from atlas_jax.online.agents.asking import AskedAgent
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.agents.credentials import Credentials

_OPEN = {
  "http": http.HttpAgent,
  "python": python.open_python,
  "cli": cli.CliAgent,
  "responses": responses.ResponsesAgent,
  "agents_sdk": agents_sdk.SdkAgent,
}


def open_agent(
  config: AgentConfig,
  *,
  where: str,
  environ: Mapping[str, str],
) -> AskedAgent:
  """The agent that `config` describes; nothing is sent yet.

  Args:
    config: its kind must not be None.
    where: how the keys of `config` begin, for errors: 'config.agent'.
    environ: variables for ${NAME}, keys and commands.

  Raises:
    ConfigError: a value is not valid, a variable is missing, or the target
      does not load; the text names the key.
  """
  if config.kind is None:
    raise ConfigError(f"{where}.kind must be one of {', '.join(_OPEN)}")
  config = config_tree.build(AgentConfig, config, where)
  credentials = Credentials(environ)
  kind = _OPEN[config.kind](config, f"{where}.{config.kind}", credentials)
  return AskedAgent(
    kind,
    name=f"{config.kind} {kind.target}",
    fingerprint=fingerprint(config),
    timeout_s=config.timeout_s,
    retries=config.retries,
    concurrency=config.concurrency,
    max_response_bytes=config.max_response_bytes,
    failure_regex=config.failure_regex,
    credentials=credentials,
  )


def fingerprint(config: AgentConfig) -> str:
  """sha256 of all that can change answers; ${VARIABLE}s by their names."""
  part = dataclasses.asdict(getattr(config, config.kind))
  part |= {"kind": config.kind, "failure_regex": config.failure_regex}
  text = json.dumps(part, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
