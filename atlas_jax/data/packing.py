"""Sequences of different lengths into rows of one fixed length.

Every array of a `PackedBatch` is aligned to its tokens: `loss_mask[b, t] == 1`
says that token t is trained, and its log-prob comes from the hidden state at
t - 1 of the same segment. The first token of a segment has no such state and
is never trained. A row holds segments 1, 2, ... one after the other, then
padding (segment 0); positions start at 0 in every segment.

Axes: B rows, T tokens of a row, M micro-batches.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Sequence:
  """One prompt and its completion, in token ids.

  tokens: int[n]. loss_mask: [n] of 0 and 1; the first entry must be 0.
  behavior_logprobs, ref_logprobs: float[n] aligned to tokens, read only where
  loss_mask is 1; None where nobody measured them.
  """

  tokens: np.ndarray
  loss_mask: np.ndarray
  behavior_logprobs: np.ndarray | None = None
  ref_logprobs: np.ndarray | None = None
  advantage: float = 0.0


class PackedBatch(NamedTuple):
  """What a train step reads; every array is [B, T] (or [M, B/M, T]).

  sequence_ids numbers the sequences of a row 1, 2, ...; 0 is padding and
  tokens that belong to no single sequence. A trained token has one above 0.
  behavior_logprobs is NaN on trained tokens whose sampler did not report one.
  old_logprobs and ref_logprobs are 0 until someone computes them.
  sequence_weights sums to 1 in every sequence: 1 / (its trained tokens) on
  each of them. A sequence without trained tokens carries its 1 on its last
  token, where loss_mask 0 silences it; so the sum counts the sequences.
  """

  tokens: np.ndarray  # int32
  segment_ids: np.ndarray  # int32
  positions: np.ndarray  # int32
  sequence_ids: np.ndarray  # int32
  loss_mask: np.ndarray  # float32
  advantages: np.ndarray  # float32
  behavior_logprobs: np.ndarray  # float32
  old_logprobs: np.ndarray  # float32
  ref_logprobs: np.ndarray  # float32
  sequence_weights: np.ndarray  # float32


class PackingStats(NamedTuple):
  fill: float  # real tokens / (rows * length), empty rows counted
  rows: int  # rows of the batch, empty ones included
  empty_rows: int  # added to reach the multiple


def _check(sequence: Sequence, index: int, length: int) -> None:
  n = len(sequence.tokens)
  if not 0 < n <= length:
    raise ValueError(
      f"sequence {index} has {n} tokens; a row takes 1 to {length}"
    )
  for name in ("loss_mask", "behavior_logprobs", "ref_logprobs"):
    array = getattr(sequence, name)
    if array is not None and len(array) != n:
      raise ValueError(
        f"sequence {index}: {name} has {len(array)} entries for {n} tokens"
      )
  if not np.isin(sequence.loss_mask, (0, 1)).all():
    raise ValueError(f"sequence {index}: loss_mask may hold 0 and 1 only")
  if sequence.loss_mask[0] != 0:
    raise ValueError(
      f"sequence {index}: the first token cannot be trained (loss_mask[0])"
    )


def best_fit(lengths: Items[int], capacity: int) -> list[list[int]]:
  """Rows of indices: best-fit decreasing, ties by index.

  Each sequence, longest first, goes to the row with the least room that still
  takes it (the first such row), or opens a new one.
  """
  rows: list[list[int]] = []
  room: list[int] = []
  for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
    fitting = [r for r in range(len(rows)) if room[r] >= lengths[i]]
    if fitting:
      row = min(fitting, key=lambda r: room[r])
    else:
      row = len(rows)
      rows.append([])
      room.append(capacity)
    rows[row].append(i)
    room[row] -= lengths[i]
  return rows


def pack(
  sequences: Items[Sequence], *, length: int, rows_multiple: int
) -> tuple[PackedBatch, PackingStats]:
  """Packs all sequences into rows of `length` tokens.

  Empty rows fill up to a multiple of rows_multiple (micro-batches times the
  shards of the batch axis). The result is a function of the arguments alone.

  Raises:
    ValueError: no sequence, one longer than `length` (what to do with it is
      the caller's choice), or one whose arrays do not fit together.
  """
  if not sequences:
    raise ValueError("there is no sequence to pack")
  if rows_multiple < 1:
    raise ValueError(f"rows_multiple={rows_multiple} must be above 0")
  for index, sequence in enumerate(sequences):
    _check(sequence, index, length)
  rows = best_fit([len(s.tokens) for s in sequences], length)
  n_rows = -(-len(rows) // rows_multiple) * rows_multiple
  batch = PackedBatch(
    *(np.zeros((n_rows, length), np.int32) for _ in range(4)),
    *(np.zeros((n_rows, length), np.float32) for _ in range(6)),
  )
  for b, members in enumerate(rows):
    start = 0
    for segment, i in enumerate(members, 1):
      s = sequences[i]
      n = len(s.tokens)
      at = (b, slice(start, start + n))
      mask = np.asarray(s.loss_mask, np.float32)
      batch.tokens[at] = s.tokens
      batch.segment_ids[at] = segment
      batch.positions[at] = np.arange(n)
      batch.sequence_ids[at] = segment
      batch.loss_mask[at] = mask
      batch.advantages[at] = s.advantage
      batch.behavior_logprobs[at] = (
        np.where(mask > 0, np.nan, 0.0)
        if s.behavior_logprobs is None
        else np.where(mask > 0, s.behavior_logprobs, 0.0)
      )
      if s.ref_logprobs is not None:
        batch.ref_logprobs[at] = np.where(mask > 0, s.ref_logprobs, 0.0)
      if mask.any():
        batch.sequence_weights[at] = mask / mask.sum()
      else:
        batch.sequence_weights[b, start + n - 1] = 1.0
      start += n
  used = sum(len(s.tokens) for s in sequences)
  stats = PackingStats(
    fill=used / (n_rows * length),
    rows=n_rows,
    empty_rows=n_rows - len(rows),
  )
  return batch, stats


def split_micro(batch: PackedBatch, micro_batches: int) -> PackedBatch:
  """[B, T] -> [M, B/M, T], the layout that the train steps scan over.

  Row b goes to micro-batch b mod M, so that the empty rows at the end are
  shared out.

  Raises:
    ValueError: the rows cannot be cut into micro_batches equal parts.
  """
  rows = batch.tokens.shape[0]
  if micro_batches < 1 or rows % micro_batches:
    raise ValueError(
      f"{rows} rows cannot be cut into {micro_batches} equal micro-batches"
    )
  return PackedBatch(
    *(
      a.reshape(rows // micro_batches, micro_batches, -1).swapaxes(0, 1)
      for a in batch
    )
  )
