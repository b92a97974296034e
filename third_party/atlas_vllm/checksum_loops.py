"""The loops of checksum.py, compiled.

Imported when first called: vLLM's CPU workers look into all modules at their
start, and fail at one that Numba imports.
"""

import numba
import numpy as np
from numba import uint32


def _compiled(loop):
  """Compiled at its first call, and kept for other processes if it can be."""
  try:
    return numba.njit(nogil=True, cache=True)(loop)
  except RuntimeError:  # no directory that may be written
    return numba.njit(nogil=True)(loop)


# Numba makes 64 bits of any sum or product: each is cut to 32 by name.


@_compiled
def _scatter(x):
  x = uint32(uint32(x ^ (x >> uint32(16))) * uint32(0x7FEB352D))
  x = uint32(uint32(x ^ (x >> uint32(15))) * uint32(0x846CA68B))
  return uint32(x ^ (x >> uint32(16)))


@_compiled
def sum_of(bits, row, column):
  """One sum of checksum.py; row and column: of the first, with their seeds."""
  n_rows, n_columns = bits.shape
  column_keys = np.empty(n_columns, np.uint32)
  for j in range(n_columns):
    column_keys[j] = _scatter(uint32(column + j))
  total = uint32(0)
  for i in range(n_rows):
    row_key = _scatter(uint32(row + i))
    for j in range(n_columns):
      key = uint32(row_key + column_keys[j])
      total = uint32(total + _scatter(uint32(key ^ bits[i, j])))
  return total


@_compiled
def gain(indices, old, new, columns, row_seed, column_seed):
  """What one sum gains where values at flat indices become others."""
  total = uint32(0)
  for i in range(len(indices)):
    row = indices[i] // columns
    row_key = _scatter(uint32(row + row_seed))
    column = indices[i] - row * columns
    key = uint32(row_key + _scatter(uint32(column + column_seed)))
    gained = _scatter(uint32(key ^ new[i])) - _scatter(uint32(key ^ old[i]))
    total = uint32(total + uint32(gained))
  return total
