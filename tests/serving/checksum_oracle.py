"""The checksum of a tensor by its page, in integers that do not wrap around."""

import numpy as np

_MASK = np.uint64(0xFFFFFFFF)
_SEEDS = ((0x9E3779B9, 0x85EBCA6B), (0xC2B2AE35, 0x27D4EB2F))


def scatter(x: np.ndarray) -> np.ndarray:
  """uint64 in, below 2^32; so is what comes out."""
  for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
    x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor) & _MASK
  return x


def checksum(tensor: np.ndarray) -> str:
  """Of a whole tensor of bfloat16 or float32."""
  tensor = np.ascontiguousarray(tensor)
  bits = tensor.reshape(len(tensor), -1).view(f"u{tensor.itemsize}")
  rows, columns = np.indices(bits.shape, np.uint64)
  found = []
  for row, column in _SEEDS:
    keys = scatter(rows + np.uint64(row) & _MASK)
    keys += scatter(columns + np.uint64(column) & _MASK)
    terms = scatter(keys & _MASK ^ bits.astype(np.uint64))
    found.append(f"{int(terms.sum()) % 2**32:08x}")
  return "".join(found)
