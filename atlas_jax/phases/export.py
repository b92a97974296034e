"""Writes the teacher as a Hugging Face directory, tokenizer and all."""

import pathlib

from atlas_jax.phases.run import Run


def run(run: Run, name: str) -> None:
  """Exports `run.model` to config.export.path, or <workdir>/export."""
  del name
  c = run.config.export
  path = run.workdir / "export" if c.path is None else pathlib.Path(c.path)
  run.export(path, c.dtype)
