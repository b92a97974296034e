"""The config of the proxy: every default, once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from atlas_jax import addresses
from atlas_jax.config import PromptsConfig
from atlas_jax.config_tree import (
  NonNegativeFloat,
  PositiveFloat,
  PositiveInt,
  Valid,
)
from atlas_jax.episode_config import TeachConfig
from atlas_jax.online.calls.model_config import Wording
from atlas_jax.online.calls.variables import Credentials, VariableName
from atlas_jax.online.production.outcomes import TEACH_DEADLINE_S
from atlas_jax.serving import http

_PORT = Valid("must be from 1 to 65535", lambda port: 1 <= port <= 65535)
# As browsers send it: in lower case, with neither a path nor a usual port.
Origin = Annotated[
  str,
  Valid(
    "must be the origin of a web page, such as http://localhost:3000",
    re.compile(
      r"[a-z][a-z0-9+.-]*://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d+)?"
    ).fullmatch,
  ),
]


@dataclass(frozen=True)
class ChatServerConfig(Wording):
  """An OpenAI-compatible server and the model that is asked there."""

  url: str | None = None  # as http://HOST:PORT/v1
  model: str | None = None  # upstream: None: the one that the client names
  api_key_env: VariableName | None = None  # the variable that holds its key

  def conflicts(self) -> Iterator[str]:
    if problem := addresses.problem(self.url):
      yield f"url {problem}; a key goes by api_key_env"


@dataclass(frozen=True)
class UpstreamConfig(ChatServerConfig):
  """The model that answers."""

  # The client's own Authorization header is passed on instead of a key.
  forward_authorization: bool = False


@dataclass(frozen=True)
class ProxyConfig:
  """Times in seconds, sizes in bytes."""

  host: str = "127.0.0.1"
  port: Annotated[int, _PORT] = 8080
  # The variable that holds the key that clients must show; None: all may ask.
  api_key_env: VariableName | None = None
  # Without that key: what Host may name beside this machine and `host`.
  allowed_hosts: tuple[str, ...] = ()
  # The web pages that may ask, as http://localhost:3000.
  allow_origins: tuple[Origin, ...] = ()
  upstream: UpstreamConfig = UpstreamConfig()
  teacher: ChatServerConfig = ChatServerConfig()
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

  def conflicts(self) -> Iterator[str]:
    guarded = self.api_key_env or self.upstream.forward_authorization
    if not guarded and not addresses.is_loopback(self.host):
      yield (
        f"host={self.host!r} lets other machines ask without a key:"
        " config.api_key_env must name the variable that holds one"
      )
    if self.teacher.model is None:
      yield (
        "teacher.model must name the model that teaches, as"
        f" {self.teacher.url}/models lists it"
      )
    if self.episode.chat_template_kwargs.student:
      yield (
        "episode.chat_template_kwargs.student has no effect: a client's own"
        " request says chat_template_kwargs"
      )
    if self.upstream.forward_authorization and (
      self.api_key_env or self.upstream.api_key_env
    ):
      yield (
        "upstream.forward_authorization passes the client's own key on:"
        " config.api_key_env and config.upstream.api_key_env must be None"
      )


@dataclass(frozen=True)
class Keys:
  """The secrets, by whom they open."""

  client: str | None = field(default=None, repr=False)
  upstream: str | None = field(default=None, repr=False)
  teacher: str | None = field(default=None, repr=False)


def read_keys(config: ProxyConfig, environ: Mapping[str, str]) -> Keys:
  """The secrets that the config names.

  Raises:
    ConfigError: a variable is named and not set, or has a control character.
  """
  key = Credentials(environ).key
  return Keys(
    client=key(config.api_key_env, "config"),
    upstream=key(config.upstream.api_key_env, "config.upstream"),
    teacher=key(config.teacher.api_key_env, "config.teacher"),
  )
