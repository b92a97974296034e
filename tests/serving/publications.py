"""Whole tensors on the host as what one process publishes, without a model."""

import numpy as np

from atlas_jax.model.owned import Owned
from atlas_jax.serving import delta, weight_files
from atlas_jax.serving.weight_files import WeightManifest
from tests.serving.checksum_oracle import checksum


def checksums(tensors: dict[str, np.ndarray]) -> dict[str, str]:
  return {name: checksum(tensor) for name, tensor in tensors.items()}


def owned(tensors: dict[str, np.ndarray]) -> list[Owned]:
  def sums(tensor):
    text = checksum(tensor)
    return np.array([int(text[:8], 16), int(text[8:], 16)], np.uint32)

  return [Owned(name, sums(t), {name: t}) for name, t in tensors.items()]


def write(tensors, root, version, base=None) -> WeightManifest:
  """Writes what a sender would announce; `base` is (version, tensors)."""
  entries = tensors.items()
  if base is not None:
    entries = [
      entry
      for name, tensor in tensors.items()
      for entry in delta.entries(name, base[1][name], tensor)
    ]
  number = None if base is None else base[0]
  written = weight_files.write(entries, root, version, base=number)
  files = {file.name: file.digest for file in written}
  manifest = WeightManifest(version, number, files, checksums(tensors))
  weight_files.write_manifest(manifest, root)
  return manifest
