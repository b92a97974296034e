"""Packs token sequences of different lengths into rows of one fixed length.

Every array of a `PackedBatch` is aligned to its tokens: `loss_mask[b, t] == 1`
says that token t is trained, and its log-prob comes from the hidden state at
t - 1 of the same sequence. The first token of a sequence has no such state and
is never trained. A row holds segments 1, 2, ... one after the other, then
padding (segment 0); positions start at 0 in every segment.

A segment is one sequence, or a group that shares its prompt:

  tokens        p0 p1 p2 | p3 a0 a1 | p3 b0 | p3 c0 c1 c2
  sequence_ids   0  0  0    1  1  1    2  2    3  3  3  3
  positions      0  1  2    3  4  5    3  4    3  4  5  6

The prompt stands there once, but for its last token, which opens every branch
so that each completion token follows its predecessor. A token sees the keys
of its segment, at its position or before, that are shared (sequence 0) or of
its own sequence.

Axes: B rows, T tokens of a row, M micro-batches, G groups of sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class TokenSequence:
  """A prompt and its completion as token ids, with what the loss needs.

  Log-probs are read only where loss_mask is 1; None where they are not known.
  """

  tokens: np.ndarray  # int [T]
  loss_mask: np.ndarray  # 0 or 1 [T]; the first token is never trained
  behavior_logprobs: np.ndarray | None = None  # float [T]
  ref_logprobs: np.ndarray | None = None  # float [T]
  advantage: float = 0.0
  prompt_length: int = 0  # first tokens that other sequences may share


class PackedBatch(NamedTuple):
  """The arrays that a train step reads, each [B, T] (or [M, B/M, T]).

  sequence_ids number the sequences of a row from 1 on; they are 0 at padding
  and at tokens that several sequences share.
  behavior_logprobs is NaN on trained tokens without one from the sampler.
  old_logprobs and ref_logprobs are 0 until they are computed.
  sequence_weights sums to 1 in every sequence: 1 / (its trained tokens) on
  each of them. A sequence without trained tokens carries its 1 on its last
  token, where loss_mask 0 silences it; so the sum counts the sequences.
  """

  tokens: np.ndarray  # int32
  segment_ids: np.ndarray  # int32
  sequence_ids: np.ndarray  # int32
  positions: np.ndarray  # int32
  loss_mask: np.ndarray  # float32
  advantages: np.ndarray  # float32
  behavior_logprobs: np.ndarray  # float32
  old_logprobs: np.ndarray  # float32
  ref_logprobs: np.ndarray  # float32
  sequence_weights: np.ndarray  # float32


class PackingStats(NamedTuple):
  """How well the rows are used."""

  fill: float  # real tokens / (rows * length), empty rows counted
  shared_tokens: int  # prompt tokens that sharing saved
  rows: int  # rows of the batch, empty ones included


def _check(sequence: TokenSequence, index: int, length: int) -> None:
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
  prompt = sequence.prompt_length
  if not 0 <= prompt <= n or np.any(sequence.loss_mask[:prompt]):
    raise ValueError(
      f"sequence {index}: prompt_length={prompt} must be within its {n} tokens"
      " and none of them trained"
    )


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
  """Best-fit decreasing: the indices of each row, ties by index.

  Each sequence, longest first, goes to the row with the least room that still
  takes it (the first such row), or opens a new one.
  """
  rows: list[list[int]] = []
  room: list[int] = []
  for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
    fitting = [r for r in range(len(rows)) if room[r] >= lengths[i]]
    if not fitting:
      fitting = [len(rows)]
      rows.append([])
      room.append(capacity)
    row = min(fitting, key=lambda r: room[r])
    rows[row].append(i)
    room[row] -= lengths[i]
  return rows


def plan_rows(
  sequences: Sequence[TokenSequence], *, length: int, share_prompts: bool
) -> list[list[tuple[list[int], int]]]:
  """The groups of each row: indices of sequences, tokens that they have once.

  A group of several sequences shares one copy of their prompt, all but its last
  token; a group that is longer than a row is cut into several, each with a copy
  of its own.
  """
  by_prompt: dict[object, list[int]] = {}
  for i, s in enumerate(sequences):
    prompt = np.asarray(s.tokens[: s.prompt_length], np.int32)
    # A prompt of one token stands in every branch: nothing to share.
    shares = share_prompts and len(prompt) > 1
    by_prompt.setdefault(prompt.tobytes() if shares else i, []).append(i)
  groups_G, lengths_G = [], []
  for members in by_prompt.values():
    shared = sequences[members[0]].prompt_length - 1 if len(members) > 1 else 0
    branches = [len(sequences[i].tokens) - shared for i in members]
    for part in best_fit(branches, length - shared):
      # One that is alone in its part shares with nobody.
      once = shared if len(part) > 1 else 0
      groups_G.append(([members[i] for i in sorted(part)], once))
      lengths_G.append(shared + sum(branches[i] for i in part))
  return [[groups_G[g] for g in row] for row in best_fit(lengths_G, length)]


def pack(
  sequences: Sequence[TokenSequence],
  *,
  length: int,
  rows_multiple: int,
  share_prompts: bool = False,
) -> tuple[PackedBatch, PackingStats]:
  """Packs all sequences into rows of `length` tokens.

  Empty rows fill up to a multiple of rows_multiple (micro-batches times the
  shards of the batch axis). With share_prompts, sequences with equal prompts
  share one copy of it. The result is a function of the arguments alone.

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
  rows = plan_rows(sequences, length=length, share_prompts=share_prompts)
  n_rows = -(-len(rows) // rows_multiple) * rows_multiple
  batch = PackedBatch(
    *(np.zeros((n_rows, length), np.int32) for _ in range(4)),
    *(np.zeros((n_rows, length), np.float32) for _ in range(6)),
  )
  for b, groups in enumerate(rows):
    start = number = 0
    for segment, (members, shared) in enumerate(groups, 1):
      prompt = (b, slice(start, start + shared))
      batch.tokens[prompt] = sequences[members[0]].tokens[:shared]
      batch.segment_ids[prompt] = segment
      batch.positions[prompt] = np.arange(shared)
      start += shared
      for i in members:
        number += 1
        stop = start + len(sequences[i].tokens) - shared
        at = (b, slice(start, stop))
        batch.segment_ids[at] = segment
        batch.sequence_ids[at] = number
        _write(batch, at, sequences[i], shared)
        start = stop
  _check_contiguous(batch)
  used = int((batch.segment_ids > 0).sum())
  stats = PackingStats(
    fill=used / (n_rows * length),
    shared_tokens=sum(len(s.tokens) for s in sequences) - used,
    rows=n_rows,
  )
  return batch, stats


def _check_contiguous(batch: PackedBatch) -> None:
  """Attention relies on it: see `model.attention.visible_until`."""
  many = batch.tokens.size + 1
  order = np.int64(batch.segment_ids) * many + batch.sequence_ids
  order[batch.segment_ids == 0] = many**2  # padding stands last
  if np.any(np.diff(order) < 0):
    raise AssertionError("segments or sequences of a packed row are mixed")


def _write(
  batch: PackedBatch, at: tuple[int, slice], s: TokenSequence, shared: int
) -> None:
  """Writes a sequence, but for its shared tokens, to row and columns `at`."""
  mask = np.asarray(s.loss_mask, np.float32)[shared:]
  batch.tokens[at] = s.tokens[shared:]
  batch.positions[at] = np.arange(shared, len(s.tokens))
  batch.loss_mask[at] = mask
  batch.advantages[at] = s.advantage
  batch.behavior_logprobs[at] = (
    np.where(mask > 0, np.nan, 0.0)
    if s.behavior_logprobs is None
    else np.where(mask > 0, s.behavior_logprobs[shared:], 0.0)
  )
  if s.ref_logprobs is not None:
    ref = s.ref_logprobs[shared:]
    batch.ref_logprobs[at] = np.where(mask > 0, ref, 0.0)
  if mask.any():
    batch.sequence_weights[at] = mask / mask.sum()
  else:
    row, span = at
    batch.sequence_weights[row, span.stop - 1] = 1.0


def split_micro(
  batch: PackedBatch, micro_batches: int, room: int = 0
) -> PackedBatch:
  """Splits a batch [B, T] into the [M, B/micro_batches, T] of a train step.

  Row b goes to micro-batch b mod micro_batches, so that the empty rows at the
  end are shared out. M is micro_batches, or `room` if that is more: empty
  micro-batches, at the end, cost a step nothing.

  Raises:
    ValueError: the rows cannot be cut into micro_batches equal parts.
  """
  rows = batch.tokens.shape[0]
  if micro_batches < 1 or rows % micro_batches:
    raise ValueError(
      f"{rows} rows cannot be cut into {micro_batches} equal micro-batches"
    )
  empty = max(room - micro_batches, 0)

  def cut(a):
    a = a.reshape(rows // micro_batches, micro_batches, -1).swapaxes(0, 1)
    return np.pad(a, ((0, empty), (0, 0), (0, 0)))

  return PackedBatch(*(cut(a) for a in batch))
