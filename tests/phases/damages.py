"""Damages to files of a checkpoint, and what is said of them."""

import shutil


def biggest(folder):
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def flip(path, at=0.5):
  data = bytearray(path.read_bytes())
  data[int(len(data) * at)] ^= 16
  path.write_bytes(data)


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


def said(caplog) -> list[str]:
  """What was logged of checkpoints."""
  ours = (r for r in caplog.records if r.name == "atlas_jax.checkpoint")
  return [r.getMessage() for r in ours]
