"""Writes the teacher as a Hugging Face directory, tokenizer and all."""

import pathlib

import jax

from atlas_jax import directory, hub, sharding
from atlas_jax.config import MeshConfig
from atlas_jax.phases.entry import PhaseEntry, newest
from atlas_jax.phases.teacher import Teacher


def export(entry: PhaseEntry, *, teacher: Teacher) -> None:
  """Writes the teacher to config.export.path, or <workdir>/export."""
  c = entry.config.export
  path = entry.workdir / "export" if c.path is None else pathlib.Path(c.path)
  teacher.export(path, c.dtype)


def export_run(workdir: pathlib.Path, path: pathlib.Path, dtype: str) -> None:
  """Exports the weights that a run trained last, on whatever devices are here.

  Raises:
    CheckpointError: the run has trained nothing yet.
    RunError: there is no run in workdir, or it is in progress.
  """
  with directory.lock(workdir):
    config = directory.read_config(workdir)
    model = hub.directory(config.teacher.path, "model")
    with jax.set_mesh(sharding.make_mesh(MeshConfig())):
      teacher = Teacher(config.teacher, model, None, config.seed)
      entry, _ = newest(workdir, config)
      step, weights = entry.trained(teacher)
      teacher.advance(weights, step)
      teacher.export(path, dtype)
