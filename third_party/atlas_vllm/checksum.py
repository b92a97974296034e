"""A checksum of a tensor that can be updated; this page defines it.

    sum_s(tensor) = sum of term_s over all elements  mod 2^32,  s = 0, 1

    term_s = scatter(scatter(row + ROW_s) + scatter(column + COLUMN_s) ^ bits)

row is an element's index in the first axis, column its flat index in all the
others (0 where there are none): two words, since one of 32 bits does not count
the elements of a large tensor. bits are those of a bfloat16 or float32, zeros
before them. All arithmetic is of unsigned 32-bit integers and wraps around.
`scatter` is lowbias32 of github.com/skeeto/hash-prospector (public domain), in
which each bit of x changes each bit of the outcome about half of the time:

    x ^= x >> 16;  x *= 0x7FEB352D;  x ^= x >> 15;  x *= 0x846CA68B;
    x ^= x >> 16

A sum knows no order, so shards add up, whoever holds them, and a changed value
costs two terms: the new one is added, the old one subtracted. Subtracting what
a model does not hold spoils the sum, so a delta of another base is found.

It finds accidents: a change that was not made to fool it stays unseen with
probability 2^-64. Against malice stands the BLAKE3 of each file.
atlas_jax/model/owned.py computes the same on the trainer's devices.
"""

import numpy as np
import torch

_SEEDS = ((0x9E3779B9, 0x85EBCA6B), (0xC2B2AE35, 0x27D4EB2F))  # ROW, COLUMN


def of_box(tensor: torch.Tensor, row: int = 0, column: int = 0) -> np.ndarray:
  """The two sums, uint32 [2], of a tensor or of a box out of one.

  Args:
    tensor: taken as [its first axis, all others].
    row, column: of the box's first element in the tensor that it is part of.
  """
  from atlas_vllm.checksum_loops import sum_of

  bits = _bits(tensor.reshape(len(tensor), -1))
  sums = [sum_of(bits, row + a, column + b) for a, b in _SEEDS]
  return np.array(sums, np.uint32)


def of_change(
  indices: torch.Tensor, old: torch.Tensor, new: torch.Tensor, columns: int
) -> np.ndarray:
  """What the sums gain where values at flat indices become others.

  Args:
    indices: row-major in the whole tensor, int64 [n], no two equal.
    old, new: [n].
    columns: of the whole tensor: its elements over its first axis.
  """
  from atlas_vllm.checksum_loops import gain

  given = indices.cpu().numpy(), _bits(old), _bits(new), columns
  return np.array([gain(*given, a, b) for a, b in _SEEDS], np.uint32)


def text(sums: np.ndarray) -> str:
  """Both sums as 16 hexadecimal digits."""
  return "".join(f"{int(one):08x}" for one in sums)


def parse(text: str) -> np.ndarray:
  """The two sums of `text`."""
  return np.array([int(text[:8], 16), int(text[8:], 16)], np.uint32)


def _bits(tensor: torch.Tensor) -> np.ndarray:
  kind = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
  array = tensor.detach().cpu().contiguous().view(kind).numpy()
  return array.view(f"u{tensor.element_size()}")
