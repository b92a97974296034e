"""Reads a delta by its description, one value at a time."""

import numpy as np


def apply(
  tensors: dict[str, np.ndarray], entries: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """The tensors with the entries' values in their places."""
  out = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
  for entry, gaps in entries.items():
    name, _, kind = entry.rpartition(".")
    if kind != "gaps":
      continue
    values, at = list(entries[f"{name}.values"]), -1
    flat = out[name].reshape(-1)
    for gap in gaps.tolist():
      if gap == 0:
        at += 65535
      else:
        at += gap
        flat[at] = values.pop(0)
    assert not values
  return out
