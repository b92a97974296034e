"""The checksum that sender and server share: by hand, and against accidents."""

import numpy as np
import pytest
import torch
from atlas_vllm import checksum

from tests.serving import checksum_oracle

BF16, F32 = torch.bfloat16, torch.float32


def scatter(x):
  """By the module's page, in Python's integers."""
  x ^= x >> 16
  x = x * 0x7FEB352D % 2**32
  x ^= x >> 15
  x = x * 0x846CA68B % 2**32
  return x ^ x >> 16


def term(row, column, bits, of_row, of_column):
  keys = scatter((row + of_row) % 2**32) + scatter((column + of_column) % 2**32)
  return scatter(keys % 2**32 ^ bits)


def of(tensor):
  return checksum.text(checksum.of_box(tensor))


def drawn(*shape, dtype=BF16, seed=0):
  generator = torch.Generator().manual_seed(seed)
  return torch.randn(shape, generator=generator).to(dtype)


def test_by_hand():
  x = torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=BF16)
  bits = [(0, 0, 0x3F80), (0, 1, 0xC000), (1, 0, 0x3F00), (1, 1, 0)]
  first = sum(term(*b, 0x9E3779B9, 0x85EBCA6B) for b in bits) % 2**32
  second = sum(term(*b, 0xC2B2AE35, 0x27D4EB2F) for b in bits) % 2**32
  assert of(x) == f"{first:08x}{second:08x}"
  assert np.array_equal(checksum.parse(of(x)), checksum.of_box(x))


@pytest.mark.parametrize("shape", [(7,), (3, 5), (4, 2, 6), (2, 70_000)])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_equals_the_oracle(shape, dtype):
  x = drawn(*shape, dtype=dtype)
  bits = x.view({BF16: torch.int16, F32: torch.int32}[dtype]).numpy()
  assert of(x) == checksum_oracle.checksum(bits)
  # Rows count, not the order in memory.
  assert of(x.mT.contiguous().mT if x.ndim > 1 else x.flip(0).flip(0)) == of(x)


def test_boxes_add_up_in_any_order():
  x = drawn(60, 50)
  boxes = [(40, 0, 60, 50), (0, 20, 40, 50), (0, 0, 40, 20)]
  total = sum(checksum.of_box(x[r:s, c:d], r, c) for r, c, s, d in boxes)
  assert checksum.text(total) == of(x)
  wrong = sum(checksum.of_box(x[r:s, c:d], r) for r, c, s, d in boxes)
  assert checksum.text(wrong) != of(x)


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_a_change_is_added_to_what_was(dtype):
  old = drawn(300, 700, dtype=dtype)
  new, where = old.clone(), torch.randperm(old.numel())[:70_000]
  new.view(-1)[where] = drawn(70_000, dtype=dtype, seed=1)
  values = old.view(-1)[where], new.view(-1)[where]
  gained = checksum.of_change(where, *values, columns=700)
  assert checksum.text(checksum.of_box(old) + gained) == of(new)
  back = checksum.of_change(where, *values[::-1], columns=700)
  assert not (gained + back).any()


def test_a_delta_of_another_base_is_found():
  """A value at a changed place that the server holds otherwise."""
  ours, theirs = drawn(30, 40), drawn(30, 40)
  theirs.view(-1)[7] += 1
  where, values = torch.tensor([3, 7, 900]), drawn(3, seed=2)
  gained = checksum.of_change(where, theirs.view(-1)[where], values, 40)
  new = ours.clone()
  new.view(-1)[where] = values
  assert checksum.text(checksum.of_box(ours) + gained) != of(new)


def put(x, value, at):
  x.view(-1)[at] = value


def swap(x, i, j):
  a, b = x.view(-1)[i].clone(), x.view(-1)[j].clone()
  put(x, b, i)
  put(x, a, j)


ACCIDENTS = {
  "a bit": lambda x: put(x.view(torch.int16), 1 ^ x.view(torch.int16)[0, 0], 0),
  "a sign": lambda x: put(x, -x[2, 3], 2 * x.shape[1] + 3),
  "the sign of zero": lambda x: put(x, -0.0, 5),
  "two signs": lambda x: x[4, :2].neg_(),
  "all signs": lambda x: x.neg_(),
  "neighbours swapped": lambda x: swap(x, 8, 9),
  "one row on": lambda x: swap(x, 8, 8 + x.shape[1]),
  "across the diagonal": lambda x: swap(x, 1, x.shape[1]),
  "a row shifted": lambda x: x[3].copy_(x[3].roll(1)),
  "all shifted": lambda x: x.view(-1).copy_(x.view(-1).roll(1)),
  "rows swapped": lambda x: x[:2].copy_(x[:2].flip(0)),
  "columns swapped": lambda x: x[:, :2].copy_(x[:, :2].flip(1)),
  "transposed": lambda x: x[:, :64].copy_(x[:, :64].T.clone()),
  "a rectangle turned": lambda x: x[1:3, 1:3].copy_(x[1:3, 1:3].flip(0)),
  "a value moved": lambda x: (put(x, x[0, 1], 2), put(x, 0.0, 1)),
  "zeros": lambda x: x[10:].zero_(),
  "rounded": lambda x: x.copy_(x.half().to(x.dtype) * 2),
}


@pytest.mark.parametrize("accident", ACCIDENTS)
@pytest.mark.parametrize("seed", range(3))
def test_an_accident_is_found_by_both_sums(accident, seed):
  x = drawn(64, 96, seed=seed)
  put(x, 0.0, 5)
  y = x.clone()
  ACCIDENTS[accident](y)
  assert (checksum.of_box(x) != checksum.of_box(y)).all()


def test_single_bits_and_swaps_at_random_leave_no_pattern():
  """Of 32 bits the gain has each about half of the time, whatever happened."""
  x = drawn(64, 64)
  gains = []
  for i in range(0, 4000, 2):
    where = torch.tensor([i, i + 1])
    old = x.view(-1)[where]
    if old[0].abs() != old[1].abs():
      for new in (old.flip(0), -old):  # swapped; both signs
        gains.append(checksum.of_change(where, old, new, 64))
  gains = np.stack(gains)
  assert len(np.unique(gains, axis=0)) == len(gains)
  ones = (gains[..., None] >> np.arange(32, dtype=np.uint32) & 1).mean(0)
  assert np.abs(ones - 0.5).max() < 0.05


def test_an_index_takes_two_words():
  """Elements 2^32 apart in one tensor have other terms."""
  columns, zero, one = 70_000, torch.zeros(1), torch.ones(1)
  at = torch.tensor([2**32 + 5])

  def gained(index):
    return checksum.of_change(torch.tensor([index]), zero, one, columns)

  row, column = divmod(2**32 + 5, columns)
  want = [
    (term(row, column, 0x3F800000, *s) - term(row, column, 0, *s)) % 2**32
    for s in ((0x9E3779B9, 0x85EBCA6B), (0xC2B2AE35, 0x27D4EB2F))
  ]
  assert gained(int(at)).tolist() == want
  assert (gained(2**32 + 5) != gained(5)).all()
  # A box far down a tall tensor says the same of its first element.
  box = [checksum.of_box(v[None], row, column) for v in (one, zero)]
  assert (box[0] - box[1]).tolist() == want
