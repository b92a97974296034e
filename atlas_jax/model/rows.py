"""Weights on their way from files to devices: as whole rows, each read once.

The rows of a matrix lie together in its file, its columns everywhere in it: a
host that reads its part of the columns reads all of the file. So every mesh
axis cuts the rows at first, and the devices exchange what they have read.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from atlas_jax import sharding

Bounds = Sequence[tuple[int, int]]


def layouts(shape: Sequence[int], spec: P, rows: Sequence[int]) -> list[P]:
  """The layouts of an array of the mesh from the one that is read to `spec`.

  Args:
    shape, spec: of the array.
    rows: those of its axes that are the rows of a file.
  """
  sizes = jax.sharding.get_mesh().shape
  wanted = [
    (part,) if isinstance(part, str) else tuple(part or ())
    for part in (*spec, *[None] * (len(shape) - len(spec)))
  ]
  read = [part if i in rows else () for i, part in enumerate(wanted)]
  # Replicas come last, so that one gather, the first thing, undoes them.
  for axis in reversed(sharding.AXES):
    if sizes[axis] > 1 and not any(axis in part for part in read):
      places = [*rows, *(i for i, part in enumerate(wanted) if axis in part)]
      for i in places:
        if shape[i] % math.prod(sizes[a] for a in (*read[i], axis)) == 0:
          read[i] = (*read[i], axis)
          break
  gathered = [tuple(a for a in part if a != "data") for part in read]
  steps = [P(*(part or None for part in parts)) for parts in (read, gathered)]
  if read == wanted:
    return [spec]
  return [*(step for step, _ in itertools.groupby(steps)), spec]


@functools.partial(jax.jit, static_argnames=("way", "dtype", "param_dtype"))
def settle(
  bits: jax.Array, way: tuple[P, ...], dtype: np.dtype, param_dtype: np.dtype
) -> jax.Array:
  """The bits that were read, moved along `way`, as an array."""
  for step in way:
    bits = jax.sharding.reshard(bits, step)
  return jax.lax.bitcast_convert_type(bits, dtype).astype(param_dtype)


def read(sources, shape: Sequence[int], groups: Sequence[int], out, bounds):
  """Fills `out` with the part `bounds` of an array from its tensors.

  Args:
    sources: slice readers, one for each of the leading index of `out`.
    shape: of the array in each of them.
    groups: how many axes of the array each axis of a file has.
    out: [sources, part].
    bounds: (start, stop) of the part along each axis of the array.
  """
  runs, sizes, at = [], [], 0
  for group in groups:
    of_group = slice(at, at := at + group)
    runs.append(list(_runs(bounds[of_group], shape[of_group])))
    sizes.append(math.prod(stop - start for start, stop in bounds[of_group]))
  for source, into in zip(sources, out.reshape(-1, *sizes), strict=True):
    for pairs in itertools.product(*runs):
      there, here = zip(*pairs, strict=True)
      into[here] = source[there]


def _runs(
  bounds: Bounds, shape: Sequence[int]
) -> Iterator[tuple[slice, slice]]:
  """(where in a file, where in the part) of each run of rows in one piece."""
  cut = [i for i, n in enumerate(shape) if bounds[i] != (0, n)]
  last = max(cut, default=0)
  step = math.prod(shape[last + 1 :])
  (first, stop), length = bounds[last], (bounds[last][1] - bounds[last][0])
  outer = itertools.product(*(range(*b) for b in bounds[:last]))
  for number, index in enumerate(outer):
    row = 0
    for i, n in zip(index, shape, strict=False):
      row = row * n + i
    start = row * shape[last]
    yield (
      slice((start + first) * step, (start + stop) * step),
      slice(number * length * step, (number + 1) * length * step),
    )
