"""Runs the phases of a config in a run directory; run again, it resumes.

  python -m launchers.train --config=configs/quickstart.py --workdir=runs/a
  python -m launchers.train --config=configs/teacher.py:smollm2 \
      --workdir=runs/b --config.grpo.beta=0.04
"""

import pathlib
import shlex

from absl import flags

from . import common

common.define_flags()
_DRY_RUN = flags.DEFINE_boolean(
  "dry_run", False, "Prints what the trainer and its servers would get; stops."
)


def main():
  config = common.config()
  if _DRY_RUN.value:
    _show(config, common.workdir())
  else:
    common.run_phases(config)


def _show(config, workdir: pathlib.Path) -> None:
  from atlas_jax import gpus
  from atlas_jax.serving import vllm_command

  print(gpus.split(config) or "GPUs: nothing is set")
  print("trainer:", *(f"{k}={v}" for k, v in gpus.of_trainer(config).items()))
  for role in ("teacher", "student"):
    server = getattr(config.serving, role)
    if server.url is not None:
      print(f"{role} server: {server.url}")
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
    print(f"{role} server:", *given, shlex.join(["python", *arguments]))


if __name__ == "__main__":
  common.launch(main)
