"""SFT and export of a tiny model: runs of seconds, without servers."""

import pathlib

from atlas_jax import config as config_lib
from atlas_jax import metrics, phases

CHANGES = {
  "phases": ("sft", "export"),
  # Each start reads and measures all of them.
  "data.params": {"count": 120},
  "data.sft_params": {"count": 200},
  "sft.steps": 6,
  "sft.batch_rows": 4,
  "sft.row_length": 128,
  "sft.checkpoint_every": 2,
  "sft.optimizer.learning_rate": 1e-3,
  "sft.optimizer.warmup_steps": 1,
  "mesh.fsdp": 1,
  "mesh.data": -1,
}


def _values(changes) -> dict:
  """All that is changed; files take no count."""
  values = {**CHANGES, **changes}
  for source, params in (
    ("data.source", "data.params"),
    ("data.sft_source", "data.sft_params"),
  ):
    if source in changes:
      del values[params]
  return values


def config(model: pathlib.Path, changes) -> config_lib.RunConfig:
  from configs import quickstart

  tree = quickstart.get_config("teacher")
  tree.teacher.path = str(model)
  with tree.ignore_type():
    tree.update_from_flattened_dict(_values(changes))
  return config_lib.resolve(tree)


def run(model: pathlib.Path, workdir: pathlib.Path, **changes) -> None:
  """Keys of `changes` have __ for a dot."""
  changes = {k.replace("__", "."): v for k, v in changes.items()}
  phases.run_phases(config(model, changes), workdir)


def flags(model: pathlib.Path, workdir: pathlib.Path, **changes) -> list[str]:
  """The same run as flags of launchers.train."""
  changes = {k.replace("__", "."): v for k, v in changes.items()}
  values = _values({"teacher.path": model, **changes})
  return [
    "--config=configs/quickstart.py",
    f"--workdir={workdir}",
    *(f"--config.{key}={value}" for key, value in values.items()),
  ]


def numbers(workdir: pathlib.Path) -> list[dict]:
  """metrics.jsonl without clocks."""
  clocks = ("seconds", "_per_second", "time")
  return [
    {k: v for k, v in line.items() if not k.endswith(clocks)}
    for line in metrics.lines(workdir / "metrics.jsonl")
  ]


def weights(workdir: pathlib.Path) -> bytes:
  return (workdir / "export" / "model.safetensors").read_bytes()


def assert_same(workdir: pathlib.Path, whole: pathlib.Path) -> None:
  assert numbers(workdir) == numbers(whole)
  assert weights(workdir) == weights(whole)
