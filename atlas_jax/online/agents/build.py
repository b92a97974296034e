"""An AgentConfig made into an agent that can be asked."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from atlas_jax import config_tree
from atlas_jax.config import ConfigError
from atlas_jax.online.agents import agents_sdk, command, http, python, responses
from atlas_jax.online.agents.config import KINDS, AgentConfig
from atlas_jax.online.calls.asker import Asker
from atlas_jax.online.calls.ledger import Caps, Ledger
from atlas_jax.online.calls.limits import Limits
from atlas_jax.online.calls.pricing import CallPrice
from atlas_jax.online.calls.record import Record
from atlas_jax.online.calls.variables import Credentials
from atlas_jax.scrubbing import answer_scrubber, scrubber

_OPEN = {
  "http": http.open_http,
  "python": python.open_python,
  "cli": command.open_cli,
  "responses": responses.open_responses,
  "agents_sdk": agents_sdk.SdkAgent,
}


def open_agent(
  config: AgentConfig,
  *,
  where: str,
  environ: Mapping[str, str],
  ledger: Ledger | None = None,
  record: Record | None = None,
  dollars_per_call: float | None = None,
) -> Asker:
  """The agent that `config` describes; nothing is sent yet.

  Args:
    config: its kind must not be None.
    where: how the keys of `config` begin, for errors: 'config.agent'.
    environ: variables for ${NAME}, keys and commands.
    ledger, record: of the run; without them nothing is counted or kept.
    dollars_per_call: what a call costs, which no agent says.

  Raises:
    ConfigError: a value is not valid, a variable is missing, or the target
      does not load; the text names the key.
  """
  if config.kind is None:
    raise ConfigError(f"{where}.kind must be one of {', '.join(KINDS)}")
  config = config_tree.build(AgentConfig, config, where)
  credentials = Credentials(environ)
  kind = _OPEN[config.kind](config, f"{where}.{config.kind}", credentials)
  limits = Limits()
  limits.tighten(getattr(kind, "at_once", config.concurrency))
  return Asker(
    transport=kind,
    name=f"{config.kind} {kind.target}",
    where=where,
    identity={"agent": fingerprint(config)},
    price=CallPrice(dollars_per_call),
    timeout_s=config.timeout_s,
    retries=config.retries,
    most_bytes=config.max_response_bytes,
    failure=config.failure_regex,
    is_agent=True,
    scrub=scrubber(environ, *credentials.values),
    scrub_answer=answer_scrubber(environ, *credentials.values),
    ledger=ledger or Ledger(Caps()),
    record=record,
    limits=limits,
  )


def fingerprint(config: AgentConfig) -> str:
  """sha256 of all that can change answers; ${VARIABLE}s by their names."""
  part = dataclasses.asdict(getattr(config, config.kind))
  part |= {"kind": config.kind, "failure_regex": config.failure_regex}
  text = json.dumps(part, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
