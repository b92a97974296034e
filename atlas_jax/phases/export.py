"""Writes the teacher as a Hugging Face directory, tokenizer and all."""

import pathlib

import jax
import jax.numpy as jnp

from atlas_jax import checkpoint, directory, hub, sharding
from atlas_jax.checkpoint import CheckpointError
from atlas_jax.model import hf
from atlas_jax.model.decoder import DecoderConfig
from atlas_jax.phases.run import Run


def run(run: Run, name: str) -> None:
  """Exports `run.model` to config.export.path, or <workdir>/export."""
  del name
  c = run.config.export
  path = run.workdir / "export" if c.path is None else pathlib.Path(c.path)
  run.export(path, c.dtype)


def export_run(workdir: pathlib.Path, path: pathlib.Path, dtype: str) -> None:
  """Exports the newest trained weights of a run that is not in progress.

  Raises:
    CheckpointError: the run has trained nothing yet.
    RunError: there is no run in workdir, or it is in progress.
  """
  with directory.lock(workdir):
    config = directory.read_config(workdir)
    root = directory.checkpoints_root(config, workdir)
    names = [f"{i}_{phase}" for i, phase in enumerate(config.phases)]
    teacher_dir = hub.directory(config.teacher.path, "model")
    hf_config = hf.read_config(teacher_dir)
    decoder_config = DecoderConfig.from_hf(hf_config)
    with jax.set_mesh(sharding.make_mesh(config.mesh)):
      like = hf.abstract(decoder_config, jnp.dtype(config.teacher.param_dtype))
      for name in reversed(names):
        if not (root / name).is_dir():
          continue
        with checkpoint.of_phase(config, workdir, name) as checkpoints:
          if checkpoints.latest() is not None:
            _, trees, _ = checkpoints.restore({"model": like})
            break
      else:
        raise CheckpointError(f"{workdir} has no checkpoint to export")
      hf.save(
        path,
        trees["model"],
        decoder_config,
        hf_config,
        source_dir=teacher_dir,
        dtype=jnp.dtype(dtype),
      )
