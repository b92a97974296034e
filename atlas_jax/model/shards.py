"""Safetensors files: their head, and which process writes what of an export.

Tensors are written in rounds. One process writes one in a round; several write
one each, of one shape, and have a file each.
"""

import contextlib
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np

from atlas_jax.model.names import DTYPES, WEIGHTS, Tensor

_KINDS = {np.dtype(dtype).name: kind for kind, dtype in DTYPES.items()}
_KINDS["uint16"] = "U16"


def head(
  tensors: Iterable[tuple[str, np.dtype, Sequence[int]]], metadata: dict
) -> bytes:
  """What a safetensors file begins with, by the README of the format.

  The library's own writer would hold a second copy of all tensors.

  Args:
    tensors: (name, dtype, shape), in the order in which their bytes follow.
    metadata: texts by name.
  """
  header, end = {"__metadata__": metadata} if metadata else {}, 0
  for name, dtype, shape in tensors:
    begin, end = end, end + math.prod(shape) * dtype.itemsize
    header[name] = {
      "dtype": _KINDS[dtype.name],
      "shape": shape,
      "data_offsets": [begin, end],
    }
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # data starts aligned
  return len(text).to_bytes(8, "little") + text


class Part(NamedTuple):
  """A tensor, the number of the process that writes it, and the file."""

  tensor: Tensor
  writer: int
  file: str


def plan(table: Sequence[Tensor], writers: Sequence[int]) -> list[list[Part]]:
  """The rounds in which the tensors of `table` are written.

  Args:
    table: from names.tensors.
    writers: numbers of the processes that write; each has one file.
  """
  n = len(writers)

  def part(k: int, t: Tensor) -> Part:
    # The embedding and the head, which are the largest, lie apart.
    k = -1 if t.attribute == "head" else k
    file = f"model-{k % n + 1:05}-of-{n:05}.safetensors"
    return Part(t, writers[k], file if n > 1 else WEIGHTS)

  out = []
  layers = itertools.groupby(
    table, lambda t: None if t.layer is None else t.layer // n
  )
  for _, chunk in layers:
    alike: dict[str, list[Tensor]] = {}
    for t in chunk:
      alike.setdefault(t.attribute, []).append(t)
    out += [[part(*x) for x in enumerate(of)] for of in alike.values()]
  return out


def index(rounds: Sequence[Sequence[Part]], dtype: np.dtype) -> dict:
  """The index of several files."""
  parts = list(itertools.chain(*rounds))
  files = {part.tensor.name: part.file for part in parts}
  total = sum(math.prod(part.tensor.shape) for part in parts)
  size = {"total_size": total * dtype.itemsize}
  return {"metadata": size, "weight_map": files}


@contextlib.contextmanager
def writing(
  directory: pathlib.Path, parts: Sequence[Part], dtype: np.dtype
) -> Iterator[dict[str, IO[bytes]]]:
  """Open files with their headers, to which `parts` are written in order.

  At the end they are on the disk.
  """
  opened: dict[str, IO[bytes]] = {}
  with contextlib.ExitStack() as stack:
    for file in dict.fromkeys(part.file for part in parts):
      own = [part.tensor for part in parts if part.file == file]
      named = [(tensor.name, dtype, tensor.shape) for tensor in own]
      opened[file] = stack.enter_context(open(directory / file, "xb"))
      # transformers reads a file only if it says which framework wrote it.
      opened[file].write(head(named, {"format": "pt"}))
    yield opened
    for file in opened.values():
      file.flush()
      os.fsync(file.fileno())
