"""The config of the proxy: every default, once."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

from atlas_jax import addresses
from atlas_jax.config import ConfigError, PromptsConfig
from atlas_jax.online import variables
from atlas_jax.online.best_prompts import load_prompts, prompts_config
from atlas_jax.online.outcomes import TEACH_DEADLINE_S
from atlas_jax.online.protocol import ProbeConfig, TeachConfig
from atlas_jax.serving import http

_MAX_TOKENS_KEYS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class UpstreamConfig:
  """The model that answers: any OpenAI-compatible server."""

  url: str | None = None  # as http://HOST:PORT/v1
  model: str | None = None  # None: the one that the client names
  api_key_env: str | None = None  # the variable that holds its key
  # The client's own Authorization header is passed on instead of a key.
  forward_authorization: bool = False
  # How a probe says its limit, and whether its temperature; newer models want
  # max_completion_tokens, and some refuse a temperature.
  max_tokens_key: str = "max_tokens"
  send_temperature: bool = True


@dataclass(frozen=True)
class TeacherConfig:
  """The model that teaches, of the same kind."""

  url: str | None = None
  model: str | None = None
  api_key_env: str | None = None
  max_tokens_key: str = "max_tokens"
  send_temperature: bool = True


@dataclass(frozen=True)
class ProxyConfig:
  """Times in seconds, sizes in bytes."""

  host: str = "127.0.0.1"
  port: int = 8080
  # The variable that holds the key that clients must show; None: all may ask.
  api_key_env: str | None = None
  # Without that key: what Host may name beside this machine and `host`.
  allowed_hosts: tuple[str, ...] = ()
  upstream: UpstreamConfig = UpstreamConfig()
  teacher: TeacherConfig = TeacherConfig()
  prompts: PromptsConfig = field(default_factory=PromptsConfig)
  # A best_prompts.json, in place of `prompts`.
  prompts_path: str | None = None
  probe: ProbeConfig = field(default_factory=ProbeConfig)
  teach: TeachConfig = field(default_factory=TeachConfig)
  # Probe and teacher together may take this long, then the student answers
  # alone.
  teach_deadline_s: float = TEACH_DEADLINE_S
  # This many failures of the teacher in a row, and it is not asked at all for
  # the time that follows.
  breaker_failures: int = 3
  breaker_open_s: float = 10.0
  connect_timeout_s: float = 5.0
  silence_timeout_s: float = 600.0  # of the upstream, between two pieces
  answer_timeout_s: float = 3600.0  # for the whole of an answer, streams too
  health_timeout_s: float = 2.0
  body_timeout_s: float = 60.0  # for a client to send its request
  write_timeout_s: float = 60.0  # in which a client takes nothing of an answer
  idle_timeout_s: float = 60.0  # of a connection before its (next) request
  max_connections: int = 512  # one more ends one that asks nothing
  max_concurrency: int = 256  # chats at one time; more are told to come back
  max_held_bytes: int = 1 << 30  # of all their requests, in memory
  max_request_bytes: int = 8 << 20
  # A plain answer or an error of a server, a line of a stream.
  max_response_bytes: int = http.MOST_BYTES
  # Fields of a request that are passed on beside the known ones (chats.py).
  extra_fields: tuple[str, ...] = ()
  max_question_bytes: int = 32 << 10  # longer ones are not taught
  drain_s: float = 30.0  # for open requests, after SIGTERM


@dataclass(frozen=True)
class Keys:
  """The secrets, by whom they open."""

  client: str | None = field(default=None, repr=False)
  upstream: str | None = field(default=None, repr=False)
  teacher: str | None = field(default=None, repr=False)


def check(config: ProxyConfig) -> None:
  """Refuses what cannot work.

  Raises:
    ConfigError: with the key and what is valid.
  """
  guarded = config.api_key_env or config.upstream.forward_authorization
  if not guarded and not addresses.is_loopback(config.host):
    raise ConfigError(
      f"config.host={config.host!r} lets other machines ask without a key:"
      " config.api_key_env must name the variable that holds one"
    )
  for name in ("upstream", "teacher"):
    server = getattr(config, name)
    problem = addresses.problem(server.url)
    if problem is not None:
      raise ConfigError(
        f"config.{name}.url {problem}; a key goes by config.{name}.api_key_env"
      )
    if server.max_tokens_key not in _MAX_TOKENS_KEYS:
      raise ConfigError(
        f"config.{name}.max_tokens_key={server.max_tokens_key!r} is not one of"
        f" {', '.join(_MAX_TOKENS_KEYS)}"
      )
  if not 1 <= config.port <= 65535:
    raise ConfigError(f"config.port={config.port} must be from 1 to 65535")
  if config.teacher.model is None:
    raise ConfigError(
      "config.teacher.model must name the model that teaches, as"
      f" {config.teacher.url}/models lists it"
    )
  if config.upstream.forward_authorization and (
    config.api_key_env or config.upstream.api_key_env
  ):
    raise ConfigError(
      "config.upstream.forward_authorization passes the client's own key on:"
      " config.api_key_env and config.upstream.api_key_env must be None"
    )
  for name in (
    *("teach_deadline_s", "breaker_failures", "breaker_open_s"),
    *("connect_timeout_s", "silence_timeout_s", "health_timeout_s"),
    *("body_timeout_s", "answer_timeout_s", "write_timeout_s"),
    *("idle_timeout_s", "probe.max_tokens", "teach.max_tokens"),
    *("teach.max_approach_chars", "max_connections", "max_concurrency"),
    *("max_held_bytes", "max_request_bytes", "max_response_bytes"),
    "max_question_bytes",
  ):
    value = operator.attrgetter(name)(config)
    if not value > 0:  # also for NaN
      raise ConfigError(f"config.{name} must be above 0, got {value}")
  for name in ("probe.temperature", "teach.temperature", "drain_s"):
    value = operator.attrgetter(name)(config)
    if not value >= 0:
      raise ConfigError(f"config.{name} must not be negative, got {value}")


def read_keys(config: ProxyConfig, environ: Mapping[str, str]) -> Keys:
  """The secrets that the config names.

  Raises:
    ConfigError: a variable is named and not set, or has a control character.
  """

  def read(key: str, variable: str | None) -> str | None:
    if variable is None:
      return None
    if not environ.get(variable):
      raise ConfigError(
        f"config.{key} names the environment variable {variable}, which is"
        " not set"
      )
    return variables.read(environ, variable, f"config.{key}")

  return Keys(
    client=read("api_key_env", config.api_key_env),
    upstream=read("upstream.api_key_env", config.upstream.api_key_env),
    teacher=read("teacher.api_key_env", config.teacher.api_key_env),
  )


def read_prompts(config: ProxyConfig) -> PromptsConfig:
  """The templates: of the file, if one is named.

  Raises:
    PromptError: they are not valid.
  """
  if config.prompts_path is not None:
    return load_prompts(config.prompts_path)
  return prompts_config(vars(config.prompts), "config.prompts")
