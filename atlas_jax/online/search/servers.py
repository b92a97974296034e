"""Models of kind 'local': a model that the run serves by vLLM.

Each becomes a model of kind 'url' once its server answers. Roles that name
the same directory share one server, that of the first of them.
"""

import contextlib
import dataclasses
import pathlib
import secrets
from collections.abc import Iterator, Mapping

from atlas_jax import files
from atlas_jax.data.chat_format import TAGS
from atlas_jax.online.calls.model_config import ChatModelConfig
from atlas_jax.online.search.config import ROLES, OnlineConfig
from atlas_jax.serving import server

_KEY = "ATLAS_LOCAL_SERVER_KEY"


def _server_class(role: str) -> type[server.Server]:
  """Frozen weights, whatever the role; the log is logs/ROLE.log.

  One that is given as a URL may be any that speaks as OpenAI's do.
  """
  offers = {"_offers": ("/v1/chat/completions",), "_lacks": ()}
  return type("LocalServer", (server.StudentServer,), {"role": role, **offers})


def local(config: OnlineConfig) -> dict[str, ChatModelConfig]:
  """role -> the models that the run serves itself."""
  roles = ROLES[1:] if config.agent_mode else ROLES
  found = {role: getattr(config, role) for role in roles}
  return {role: m for role, m in found.items() if m.kind == "local"}


def endpoints(config: OnlineConfig) -> dict[str, str]:
  """role -> what the record calls the server that the run starts for it."""
  return {role: f"local:{m.model}" for role, m in local(config).items()}


@contextlib.contextmanager
def served(
  config: OnlineConfig,
  workdir: pathlib.Path,
  environ: Mapping[str, str],
  server_key: str | None = None,
) -> Iterator[tuple[OnlineConfig, Mapping[str, str]]]:
  """(config, environ) in which every model has an address.

  server_key is the bearer token of those that config.servers gives as URLs.
  The record is to call these servers by `endpoints`: a port is another one
  each time.

  Raises:
    ServerError: a server does not start.
  """
  key = server_key or secrets.token_hex(16)
  # One for each model directory and address.
  started: dict[tuple, server.Server] = {}
  at: dict[str, server.Server] = {}
  with contextlib.ExitStack() as stack:
    for role, model in local(config).items():
      settings = getattr(config.servers, role.removesuffix("_model"))
      which = model.model, settings.url
      if which not in started:
        started[which] = _server_class(role)(
          settings,
          model_path=model.model,
          workdir=workdir,
          start_timeout_s=config.servers.start_timeout_s,
          api_key=key if settings.url is None else server_key,
        )
        stack.callback(started[which].end)
      at[role] = started[which]
    if started:
      server.start(*started.values())
      environ = {**environ, _KEY: key}
    changed = {role: _at(at[role], getattr(config, role)) for role in at}
    yield dataclasses.replace(config, **changed), environ


def reached(local: ChatModelConfig, url: str, **changes) -> ChatModelConfig:
  """A local model as one at an address; it costs nothing."""
  free = {"price_in": 0.0, "price_out": 0.0}
  return dataclasses.replace(local, kind="url", url=url, **free, **changes)


def _at(one: server.Server, model: ChatModelConfig) -> ChatModelConfig:
  return reached(
    model,
    one.base_url,
    model=one.role if one.spawned else None,
    api_key_env=None if one.api_key is None else _KEY,
    extra={**model.extra, **_shown(one.model_path)},
  )


def _shown(path: pathlib.Path) -> dict:
  """What has a server write the tags that are special tokens of its model.

  It leaves out the token that ends a turn all the same.
  """
  file = path / "tokenizer.json"
  tokens = files.read_json(file)["added_tokens"] if file.is_file() else ()
  hidden = {t["content"].strip() for t in tokens if t["special"]} & {*TAGS}
  return {"skip_special_tokens": False} if hidden else {}
