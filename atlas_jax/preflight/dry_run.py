"""What the trainer and its servers would get: GPUs, shares, commands."""

import pathlib
import shlex
from collections.abc import Iterator

from atlas_jax import gpus
from atlas_jax.config import RunConfig
from atlas_jax.serving import vllm_command


def lines(
  config: RunConfig, workdir: pathlib.Path, visible: str | None
) -> Iterator[str]:
  """The shares, the trainer's environment, and each server's command.

  Args:
    config, workdir: of the run.
    visible: see `gpus.of_trainer`.

  Raises:
    ConfigError: as `gpus.of_trainer`.
  """
  yield gpus.split(config) or "GPUs: nothing is set"
  mine = gpus.of_trainer(config, visible)
  yield " ".join(["trainer:", *(f"{k}={v}" for k, v in mine.items())])
  for role, server in config.serving.by_role.items():
    if server.elsewhere:
      yield f"{role} server: {', '.join(server.elsewhere)}"
      continue
    arguments, env = vllm_command.command(
      server,
      role=role,
      device="cuda" if gpus.split(config) else vllm_command.vllm_device(),
      model_path=pathlib.Path(getattr(config, role).path),
      port=server.port,
      weights_root=workdir / "weights" if role == "teacher" else None,
    )
    given = [f"{name}={value}" for name, value in env.items()]
    command = shlex.join(["python", *arguments])
    yield " ".join([f"{role} server:", *given, command])
