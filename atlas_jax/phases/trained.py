"""The weights that a run has trained, read from its checkpoints."""

import logging
import pathlib

from atlas_jax import directory
from atlas_jax.checkpoint import CheckpointError
from atlas_jax.config import RunConfig
from atlas_jax.model import decoder, lora
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.teacher import Teacher

log = logging.getLogger(__name__)


def newest(workdir: pathlib.Path, config: RunConfig) -> tuple[PhaseEntry, int]:
  """The phase of a run that has trained last, and its newest checkpoint.

  Raises:
    CheckpointError: none has a checkpoint.
  """
  root = directory.checkpoints_root(config, workdir)
  for index in reversed(range(len(config.phases))):
    entry = PhaseEntry(config, workdir, index)
    if (root / entry.name).is_dir():
      with entry.checkpoints() as checkpoints:
        if (step := checkpoints.latest()) is not None:
          return entry, step
  raise CheckpointError(f"{workdir} has no checkpoint to export")


def read(
  entry: PhaseEntry,
  teacher: Teacher,
  step: int | None = None,
  base: decoder.Decoder | None = None,
) -> tuple[int, decoder.Decoder]:
  """(step, weights) of a phase, those that were best if it kept them.

  A collective.

  Args:
    entry: of the phase.
    teacher: on whose devices the weights come.
    step: of a checkpoint, which says what was best until then; None: the
      newest that is whole.
    base: the frozen weights of adapters, where they are at hand.

  Raises:
    CheckpointError: it is not there, or of another model.
  """
  like, again = {"model": lora.split(teacher.abstract())[1]}, {}
  if teacher.options.lora.rank:
    again["base"] = base or lora.split(teacher.first_model())[0]
  with entry.checkpoints() as checkpoints:
    step, trees, beside = checkpoints.restore(like, again, step)
    best = beside.get("best")  # the first checkpoints had none
    if best is not None and best["step"] != step:
      try:
        step, trees, _ = checkpoints.restore(like, again, best["step"])
      except CheckpointError as error:
        log.warning("the newest weights are taken, not the best: %s", error)
  return step, lora.join(trees.get("base"), trees["model"])
