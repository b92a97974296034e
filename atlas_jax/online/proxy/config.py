"""The config of the proxy: every default, once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from atlas_jax import addresses, config_checks
from atlas_jax.config import (
  ConfigError,
  NonNegativeFloat,
  PositiveFloat,
  PositiveInt,
  PromptsConfig,
  TeachConfig,
)
from atlas_jax.online import variables
from atlas_jax.online.outcomes import TEACH_DEADLINE_S
from atlas_jax.serving import http
from atlas_jax.teaching.prompts import load_prompts, prompts_config

MaxTokensKey = Literal["max_tokens", "max_completion_tokens"]


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
  max_tokens_key: MaxTokensKey = "max_tokens"
  send_temperature: bool = True


@dataclass(frozen=True)
class TeacherConfig:
  """The model that teaches, of the same kind."""

  url: str | None = None
  model: str | None = None
  api_key_env: str | None = None
  max_tokens_key: MaxTokensKey = "max_tokens"
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
  episode: TeachConfig = field(default_factory=TeachConfig)
  # Probe and teacher together may take this long, then the student answers
  # alone.
  teach_deadline_s: PositiveFloat = TEACH_DEADLINE_S
  # This many failures of the teacher in a row, and it is not asked at all for
  # the time that follows.
  breaker_failures: PositiveInt = 3
  breaker_open_s: PositiveFloat = 10.0
  connect_timeout_s: PositiveFloat = 5.0
  silence_timeout_s: PositiveFloat = 600.0  # the upstream's, mid-answer
  answer_timeout_s: PositiveFloat = 3600.0  # for all of an answer
  health_timeout_s: PositiveFloat = 2.0
  body_timeout_s: PositiveFloat = 60.0  # for a client to send its request
  write_timeout_s: PositiveFloat = 60.0  # in which a client takes nothing
  idle_timeout_s: PositiveFloat = 60.0  # of a connection, before a request
  max_connections: PositiveInt = 512  # one more ends one that asks nothing
  max_concurrency: PositiveInt = 256  # chats at one time
  max_held_bytes: PositiveInt = 1 << 30  # of all their requests, in memory
  max_request_bytes: PositiveInt = 8 << 20
  # A plain answer or an error of a server, a line of a stream.
  max_response_bytes: PositiveInt = http.MOST_BYTES
  # Fields of a request that are passed on beside the known ones (chats.py).
  extra_fields: tuple[str, ...] = ()
  max_question_bytes: PositiveInt = 32 << 10  # longer ones are not taught
  drain_s: NonNegativeFloat = 30.0  # for open requests, after SIGTERM


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
  if not 1 <= config.port <= 65535:
    raise ConfigError(f"config.port={config.port} must be from 1 to 65535")
  if config.teacher.model is None:
    raise ConfigError(
      "config.teacher.model must name the model that teaches, as"
      f" {config.teacher.url}/models lists it"
    )
  problems = config_checks.template_kwargs(config.episode, "config.episode")
  for problem in problems:
    raise ConfigError(problem)
  if config.episode.chat_template_kwargs.student:
    raise ConfigError(
      "config.episode.chat_template_kwargs.student has no effect: a client's"
      " own request says chat_template_kwargs"
    )
  if config.upstream.forward_authorization and (
    config.api_key_env or config.upstream.api_key_env
  ):
    raise ConfigError(
      "config.upstream.forward_authorization passes the client's own key on:"
      " config.api_key_env and config.upstream.api_key_env must be None"
    )


def read_keys(config: ProxyConfig, environ: Mapping[str, str]) -> Keys:
  """The secrets that the config names.

  Raises:
    ConfigError: a variable is named and not set, or has a control character.
  """

  def read(key: str, name: str | None) -> str | None:
    return name and variables.read(environ, name, f"config.{key}")

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
