"""Writes the teacher as a Hugging Face directory, tokenizer and all."""

import pathlib

import jax

from atlas_jax import directory, hub, sharding
from atlas_jax.checkpoint import CheckpointError
from atlas_jax.model import lora
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.teacher import Teacher


def export(entry: PhaseEntry, *, teacher: Teacher) -> None:
  """Writes the teacher to config.export.path, or <workdir>/export."""
  c = entry.config.export
  path = entry.workdir / "export" if c.path is None else pathlib.Path(c.path)
  teacher.export(path, c.dtype)


def export_run(workdir: pathlib.Path, path: pathlib.Path, dtype: str) -> None:
  """Exports the newest trained weights of a run that is not in progress.

  Raises:
    CheckpointError: the run has trained nothing yet.
    RunError: there is no run in workdir, or it is in progress.
  """
  with directory.lock(workdir):
    config = directory.read_config(workdir)
    root = directory.checkpoints_root(config, workdir)
    model = hub.directory(config.teacher.path, "model")
    with jax.set_mesh(sharding.make_mesh(config.mesh)):
      teacher = Teacher(config.teacher, model, None, config.seed)
      for index in reversed(range(len(config.phases))):
        entry = PhaseEntry(config, workdir, index)
        if not (root / entry.name).is_dir():
          continue
        with entry.checkpoints() as checkpoints:
          if checkpoints.latest() is not None:
            like, again = {"model": lora.split(teacher.abstract())[1]}, {}
            if config.teacher.lora.rank:
              again["base"] = lora.split(teacher.model)[0]
            step, trees, _ = checkpoints.restore(like, again)
            model = lora.join(trees.get("base"), trees["model"])
            teacher.advance(model, step)
            return teacher.export(path, dtype)
      raise CheckpointError(f"{workdir} has no checkpoint to export")
