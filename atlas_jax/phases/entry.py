"""Where one phase of a run stands, where it writes, and what it has trained."""

import dataclasses
import logging
import pathlib
from dataclasses import dataclass

from etils import epath

from atlas_jax import directory, multihost
from atlas_jax.checkpoint import CheckpointError, Checkpoints
from atlas_jax.config import GrpoConfig, Phase, RunConfig, SftConfig
from atlas_jax.model import decoder, lora
from atlas_jax.phases.teacher import Teacher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhaseEntry:
  """The phase `index` of config.phases, in the run directory `workdir`."""

  config: RunConfig
  workdir: pathlib.Path
  index: int

  @property
  def kind(self) -> Phase:
    return self.config.phases[self.index]

  @property
  def name(self) -> str:
    """INDEX_KIND: a phase may stand there twice (evaluate around grpo)."""
    return f"{self.index}_{self.kind}"

  def entries(self, *kinds: Phase) -> list["PhaseEntry"]:
    """The entries of these kinds up to this one."""
    before = self.config.phases[: self.index + 1]
    entry = dataclasses.replace
    return [entry(self, index=i) for i, k in enumerate(before) if k in kinds]

  @property
  def options(self) -> SftConfig | GrpoConfig:
    """The part of the config that is named as the phase is."""
    return getattr(self.config, self.kind)

  @property
  def episodes(self) -> pathlib.Path:
    return self.workdir / "episodes" / f"{self.name}.jsonl"

  @property
  def root(self) -> epath.Path:
    """The directory of its checkpoints, once it has some."""
    return directory.checkpoints_root(self.config, self.workdir) / self.name

  def checkpoints(self) -> Checkpoints:
    return Checkpoints(self.root, keep=self.config.keep_checkpoints)

  def trained(
    self,
    teacher: Teacher,
    step: int | None = None,
    base: decoder.Decoder | None = None,
  ) -> tuple[int, decoder.Decoder]:
    """(step, weights) from its checkpoints: the best, if it kept those.

    A collective.

    Args:
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
    with self.checkpoints() as checkpoints:
      step, trees, beside = checkpoints.restore(like, again, step)
      best = beside.get("best")  # the first checkpoints had none
      if best is not None and best["step"] != step:
        try:
          step, trees, _ = checkpoints.restore(like, again, best["step"])
        except CheckpointError as error:
          log.warning("the newest weights are taken, not the best: %s", error)
    return step, lora.join(trees.get("base"), trees["model"])


def newest(workdir: pathlib.Path, config: RunConfig) -> tuple[PhaseEntry, int]:
  """The phase of a run that has trained last, and its newest checkpoint.

  Raises:
    CheckpointError: none has a checkpoint.
  """
  last = PhaseEntry(config, workdir, len(config.phases) - 1)
  for entry in reversed(last.entries("sft", "grpo")):
    if multihost.call_on_lead(entry.root.is_dir):
      with entry.checkpoints() as checkpoints:
        if (step := checkpoints.latest()) is not None:
          return entry, step
  raise CheckpointError(f"{workdir} has no checkpoint to export")
