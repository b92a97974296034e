"""Sparse deltas: only the values that a step changed, and where they go.

A step at a learning rate of 1e-6 changes about one in a hundred of the
bfloat16 values that a server holds. Each changed box of a tensor is two
entries, 4 bytes a changed bfloat16 value (int32 indices would make it 6):

  BOX.values  the new values, in the order of their flat indices in the box
  BOX.gaps    uint16: the step from the index before (from -1 at first) to
              the next; 0 goes on by 65535 and has no value of its own

So indices can only grow. third_party/atlas_vllm/delta.py reads it.
"""

from collections.abc import Iterator

import numpy as np

FORMAT = "atlas_delta"
_FAR = 65535


def changed(old: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Flat row-major indices, growing, where the bits differ; int64 [n].

  Bits, not numbers: 0.0 and -0.0 differ, a NaN equals itself.

  Raises:
    ValueError: another shape or dtype.
  """
  if old.shape != new.shape or old.dtype != new.dtype:
    raise ValueError(
      f"{new.dtype.name} {new.shape} is no change of {old.dtype.name}"
      f" {old.shape}"
    )
  return np.flatnonzero(_bits(old) != _bits(new))


def _bits(tensor: np.ndarray) -> np.ndarray:
  return np.ascontiguousarray(tensor).reshape(-1).view(f"u{tensor.itemsize}")


def gaps(indices: np.ndarray) -> np.ndarray:
  """Growing indices [n] as uint16 codes [n + escapes]."""
  steps = np.diff(indices, prepend=-1)
  escapes = (steps - 1) // _FAR
  codes = np.zeros(len(steps) + escapes.sum(), np.uint16)
  codes[np.arange(len(steps)) + np.cumsum(escapes)] = steps - _FAR * escapes
  return codes


def entries(
  name: str, old: np.ndarray, new: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
  """What a delta file holds of one box: nothing where nothing changed."""
  where = changed(old, new)
  if len(where):
    yield f"{name}.values", np.ascontiguousarray(new).reshape(-1)[where]
    yield f"{name}.gaps", gaps(where)
