"""The weights that a run has trained, read from its checkpoints."""

import pathlib

from atlas_jax import directory
from atlas_jax.checkpoint import CheckpointError, Checkpoints
from atlas_jax.config import RunConfig
from atlas_jax.model import decoder
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


def kept(
  checkpoints: Checkpoints, teacher: Teacher
) -> tuple[int, decoder.Decoder]:
  """(step, weights) of the newest checkpoint, or of the best that it names.

  Weights are as `teacher` has them on its devices. A collective.

  Raises:
    CheckpointError: it is not there, or of another model.
  """
  like = {"model": teacher.abstract()}
  step, trees, beside = checkpoints.restore(like)
  best = beside["best"]
  if best is not None and best["step"] != step:
    step, trees, _ = checkpoints.restore(like, best["step"])
  return step, trees["model"]


def read(
  workdir: pathlib.Path, config: RunConfig, teacher: Teacher
) -> tuple[int, decoder.Decoder]:
  """`kept` of the phase of a run that has trained last."""
  with last_phase(workdir, config).checkpoints() as checkpoints:
    return kept(checkpoints, teacher)
