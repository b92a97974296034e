"""Where one phase of a run stands, and where it writes."""

import dataclasses
import pathlib
from dataclasses import dataclass

from atlas_jax import directory
from atlas_jax.checkpoint import Checkpoints
from atlas_jax.config import GrpoConfig, Phase, RunConfig, SftConfig


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

  def entries(self, kind: Phase) -> list["PhaseEntry"]:
    """The entries of a kind up to this one."""
    kinds = self.config.phases[: self.index + 1]
    entry = dataclasses.replace
    return [entry(self, index=i) for i, k in enumerate(kinds) if k == kind]

  def names(self, kind: Phase) -> list[str]:
    return [entry.name for entry in self.entries(kind)]

  @property
  def options(self) -> SftConfig | GrpoConfig:
    """The part of the config that is named as the phase is."""
    return getattr(self.config, self.kind)

  @property
  def episodes(self) -> pathlib.Path:
    return self.workdir / "episodes" / f"{self.name}.jsonl"

  def checkpoints(self) -> Checkpoints:
    root = directory.checkpoints_root(self.config, self.workdir)
    return Checkpoints(root / self.name, keep=self.config.keep_checkpoints)
