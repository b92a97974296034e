"""Models of kind 'local': a model directory that the run serves by vLLM.

Each becomes a model of kind 'url' once its server answers. Roles that name
the same directory share one server, that of the first of them.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

from atlas_jax.online.config import OnlineConfig
from atlas_jax.online.model_config import ChatModelConfig
from atlas_jax.serving import server

ROLES = ("student", "teacher", "reflection_model")
_KEY = "ATLAS_LOCAL_SERVER_KEY"


def _server_class(role: str) -> type[server.Server]:
  """Frozen weights, whatever the role; the log is logs/ROLE.log."""
  return type("LocalServer", (server.StudentServer,), {"role": role})


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
  config: OnlineConfig, workdir: pathlib.Path, environ: Mapping[str, str]
) -> Iterator[tuple[OnlineConfig, Mapping[str, str]]]:
  """(config, environ) in which every model has an address.

  The record is to call these servers by `endpoints`: a port is another one
  each time.

  Raises:
    ServerError: a server does not start.
  """
  models = local(config)
  if not models:
    yield config, environ
    return
  first: dict[str, str] = {}  # model directory -> the role that serves it
  for role, model in models.items():
    first.setdefault(model.model, role)
  settings = {
    "student": config.servers.student,
    "teacher": config.servers.teacher,
    "reflection_model": config.servers.reflection,
  }
  servers: dict[str, server.Server] = {}
  key = None
  for path, role in first.items():
    servers[role] = _server_class(role)(
      settings[role],
      model_path=path,
      workdir=workdir,
      start_timeout_s=config.servers.start_timeout_s,
      api_key=key,
    )
    key = servers[role].api_key  # one for all
  with contextlib.ExitStack() as stack:
    for one in servers.values():
      stack.callback(one.end)
    server.start(*servers.values())
    changed = {
      role: dataclasses.replace(
        model,
        kind="url",
        url=servers[first[model.model]].base_url,
        model=servers[first[model.model]].role,
        api_key_env=_KEY,
        price_in=0.0,
        price_out=0.0,
      )
      for role, model in models.items()
    }
    yield dataclasses.replace(config, **changed), {**environ, _KEY: key}
