"""The weights that a run has trained, read from its checkpoints."""

import pathlib

from atlas_jax import directory
from atlas_jax.checkpoint import CheckpointError, Checkpoints
from atlas_jax.config import RunConfig
from atlas_jax.model import decoder, lora
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.teacher import Teacher


def last_phase(workdir: pathlib.Path, config: RunConfig) -> PhaseEntry:
  """The phase of a run that has trained last.

  Raises:
    CheckpointError: none has a checkpoint.
  """
  root = directory.checkpoints_root(config, workdir)
  for index in reversed(range(len(config.phases))):
    entry = PhaseEntry(config, workdir, index)
    if (root / entry.name).is_dir():
      with entry.checkpoints() as checkpoints:
        if checkpoints.latest() is not None:
          return entry
  raise CheckpointError(f"{workdir} has no checkpoint to export")


def weights(
  checkpoints: Checkpoints,
  teacher: Teacher,
  base: decoder.Decoder | None,
  step: int | None = None,
) -> tuple[int, decoder.Decoder, dict]:
  """(step, weights, what was saved beside them) of one checkpoint.

  A collective.

  Args:
    checkpoints: of a phase.
    teacher: as it has them on its devices.
    base: what its adapters stand beside; None: it has none.
    step: None is the newest.

  Raises:
    CheckpointError: it is not there, or of another model.
  """
  like = {"model": lora.split(teacher.abstract())[1]}
  again = {} if base is None else {"base": base}
  step, trees, beside = checkpoints.restore(like, again, step)
  return step, lora.join(trees.get("base"), trees["model"]), beside


def read(
  workdir: pathlib.Path, config: RunConfig, teacher: Teacher
) -> tuple[int, decoder.Decoder]:
  """(updates, weights) of what a run trained last, the best where it says so.

  A collective; raises as `last_phase` and `weights`.
  """
  base = None
  if teacher.options.lora.rank:
    base, _ = lora.split(teacher.first_model())
  with last_phase(workdir, config).checkpoints() as checkpoints:
    step, model, beside = weights(checkpoints, teacher, base)
    best = beside.get("best")  # the first ones had none
    if best is not None and best["step"] != step:
      step, model, _ = weights(checkpoints, teacher, base, best["step"])
    return step, model
