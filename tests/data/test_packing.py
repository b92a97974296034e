"""Best-fit rows, and arrays aligned to tokens."""

import numpy as np
import pytest

from atlas_jax.data import packing


def _sequence(n, trained, first=10, **kw):
  mask = np.zeros(n, np.int32)
  mask[n - trained :] = 1
  return packing.TokenSequence(np.arange(first, first + n), mask, **kw)


def test_two_sequences_share_a_row():
  a = _sequence(3, 2, 10, behavior_logprobs=np.array([9, -1, -2]), advantage=2)
  b = _sequence(2, 1, 50, ref_logprobs=np.array([7, -3]), advantage=-1)
  batch, stats = packing.pack([b, a], length=6, rows_multiple=2)
  np.testing.assert_array_equal(batch.tokens[0], [10, 11, 12, 50, 51, 0])
  np.testing.assert_array_equal(batch.segment_ids[0], [1, 1, 1, 2, 2, 0])
  np.testing.assert_array_equal(batch.sequence_ids, batch.segment_ids)
  np.testing.assert_array_equal(batch.positions[0], [0, 1, 2, 0, 1, 0])
  np.testing.assert_array_equal(batch.loss_mask[0], [0, 1, 1, 0, 1, 0])
  np.testing.assert_array_equal(batch.advantages[0], [2, 2, 2, -1, -1, 0])
  np.testing.assert_array_equal(
    batch.behavior_logprobs[0], [0, -1, -2, 0, np.nan, 0]
  )
  np.testing.assert_array_equal(batch.ref_logprobs[0], [0, 0, 0, 0, -3, 0])
  np.testing.assert_array_equal(
    batch.sequence_weights[0], [0, 0.5, 0.5, 0, 1, 0]
  )
  assert not batch.segment_ids[1].any()
  assert stats == (5 / 12, 0, 2)
  assert {a.dtype.name for a in batch[:4]} == {"int32"}
  assert {a.dtype.name for a in batch[4:]} == {"float32"}


def test_best_fit_takes_the_tightest_row():
  # 7 opens row 0 (room 3), 6 row 1 (room 4), 3 fits row 0 exactly, 4 row 1.
  assert packing.best_fit([3, 7, 4, 6], 10) == [[1, 0], [3, 2]]
  # Next-fit in the order given would open a third row here.
  assert packing.best_fit([5, 6, 5, 4], 10) == [[1, 3], [0, 2]]


def test_every_token_survives_and_order_of_equals_is_kept():
  rng = np.random.default_rng(0)
  lengths = rng.integers(2, 33, 200)
  sequences = [_sequence(n, n // 2, 100 * i) for i, n in enumerate(lengths)]
  batch, stats = packing.pack(sequences, length=64, rows_multiple=4)
  real = batch.segment_ids > 0
  assert real.sum() == lengths.sum()
  assert sorted(batch.tokens[real]) == sorted(
    np.concatenate([s.tokens for s in sequences])
  )
  empty = sum(not row.any() for row in real)
  assert stats.rows % 4 == 0 and empty < 4
  assert stats.fill == pytest.approx(lengths.sum() / (stats.rows * 64))
  assert stats.fill > 0.9
  again, _ = packing.pack(sequences, length=64, rows_multiple=4)
  for x, y in zip(batch, again, strict=True):
    np.testing.assert_array_equal(x, y)


def test_weights_count_sequences_also_a_silent_one():
  batch, _ = packing.pack(
    [_sequence(4, 3), _sequence(5, 0)], length=16, rows_multiple=1
  )
  assert batch.sequence_weights.sum() == pytest.approx(2)
  assert (batch.sequence_weights * batch.loss_mask).sum() == pytest.approx(1)


def _branch(prompt, completion, **kw):
  tokens = np.array([*prompt, *completion])
  mask = np.zeros(len(tokens))
  mask[len(prompt) :] = 1
  return packing.TokenSequence(tokens, mask, prompt_length=len(prompt), **kw)


def _shared(sequences, length, rows_multiple=1):
  return packing.pack(
    sequences, length=length, rows_multiple=rows_multiple, share_prompts=True
  )


def test_a_shared_prompt_by_hand():
  sequences = [
    _branch([5, 6, 7], [1, 2], advantage=2, ref_logprobs=-np.arange(5.0)),
    _branch([8, 9], [3]),
    _branch([5, 6, 7], [4], behavior_logprobs=np.array([9, 9, 9, -3])),
    _branch([5, 6, 7], []),
  ]
  batch, stats = _shared(sequences, 14)
  rows = {
    "tokens": [5, 6, 7, 1, 2, 7, 4, 7, 8, 9, 3, 0, 0, 0],
    "segment_ids": [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 0, 0],
    "sequence_ids": [0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 4, 0, 0, 0],
    "positions": [0, 1, 2, 3, 4, 2, 3, 2, 0, 1, 2, 0, 0, 0],
    "loss_mask": [0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0],
    "advantages": [0, 0, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "ref_logprobs": [0, 0, 0, -3, -4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "sequence_weights": [0, 0, 0, 0.5, 0.5, 0, 1, 1, 0, 0, 1, 0, 0, 0],
  }
  for name, row in rows.items():
    np.testing.assert_array_equal(getattr(batch, name), [row], err_msg=name)
  nan = np.nan
  np.testing.assert_array_equal(
    batch.behavior_logprobs,
    [[0, 0, 0, nan, nan, 0, -3, 0, 0, 0, nan, 0, 0, 0]],
  )
  # 15 tokens apart; the group of three spares its two shared ones twice.
  assert stats == (11 / 14, 4, 1)
  # One token is nothing to share; neither is a prompt that nobody has too.
  lone = [_branch([5], [1]), _branch([5], [2]), _branch([5, 6], [1])]
  for x, y in zip(
    _shared(lone, 8)[0],
    packing.pack(lone, length=8, rows_multiple=1)[0],
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)


def test_the_smallest_shared_prompt_and_a_longer_second_branch():
  batch, stats = _shared([_branch([5, 6], [1]), _branch([5, 6], [2, 3, 4])], 8)
  assert batch.tokens.tolist() == [[5, 6, 1, 6, 2, 3, 4, 0]]
  assert batch.sequence_ids.tolist() == [[0, 1, 1, 2, 2, 2, 2, 0]]
  assert batch.positions.tolist() == [[0, 1, 2, 1, 2, 3, 4, 0]]
  assert stats == (7 / 8, 1, 1)


def test_a_sequence_of_one_token_and_one_that_fills_its_row():
  batch, _ = packing.pack(
    [_sequence(1, 0, 7), _sequence(3, 2, 1)], length=3, rows_multiple=1
  )
  assert batch.segment_ids.tolist() == [[1, 1, 1], [1, 0, 0]]
  assert batch.sequence_weights.tolist() == [[0, 0.5, 0.5], [1, 0, 0]]


def test_a_group_longer_than_a_row_is_cut():
  prompt = [5, 6, 7, 8]
  sequences = [
    _branch(prompt, [10 * i] * n) for i, n in enumerate([4, 3, 2, 2])
  ]
  batch, stats = _shared(sequences, 12)
  # 3 shared + branches 5 + 4 = 12, and 3 + 3 + 3 = 9: two copies of 3.
  np.testing.assert_array_equal(
    batch.tokens,
    [
      [5, 6, 7, 8, 0, 0, 0, 0, 8, 10, 10, 10],
      [5, 6, 7, 8, 20, 20, 8, 30, 30, 0, 0, 0],
    ],
  )
  assert stats == (21 / 24, 6, 2)
  # A row that takes one sequence and no more.
  batch, stats = _shared(sequences, 8)
  assert stats == (27 / 32, 0, 4)


def test_split_micro_keeps_every_row_and_shares_out_the_last():
  batch, _ = packing.pack(
    [_sequence(4, 2, 10 * i) for i in range(1, 6)], length=4, rows_multiple=6
  )
  micro = packing.split_micro(batch, 2)
  assert micro.tokens.shape == (2, 3, 4)
  np.testing.assert_array_equal(micro.tokens[1, 0], batch.tokens[1])
  np.testing.assert_array_equal(micro.tokens[0, 2], batch.tokens[4])
  with pytest.raises(ValueError, match="6 rows cannot be cut into 4"):
    packing.split_micro(batch, 4)


@pytest.mark.parametrize(
  "sequence, text",
  [
    (_sequence(9, 2), "sequence 1 has 9 tokens; a row takes 1 to 8"),
    (packing.TokenSequence(np.zeros(0), np.zeros(0)), "has 0 tokens"),
    (_sequence(3, 3), "first token cannot be trained"),
    (packing.TokenSequence(np.ones(3), np.array([0, 1])), "loss_mask has 2"),
    (packing.TokenSequence(np.ones(2), np.array([0, 2])), "0 and 1 only"),
    (
      _sequence(3, 1, behavior_logprobs=np.zeros(2)),
      "behavior_logprobs has 2 entries for 3",
    ),
    (_sequence(3, 1, prompt_length=3), "prompt_length=3 must be within its 3"),
    (_sequence(3, 0, prompt_length=4), "prompt_length=4 must be within its 3"),
  ],
)
def test_refusals(sequence, text):
  with pytest.raises(ValueError, match=text):
    packing.pack([_sequence(3, 1), sequence], length=8, rows_multiple=1)
  with pytest.raises(ValueError, match="no sequence"):
    packing.pack([], length=8, rows_multiple=1)


def test_rows_whose_segments_mix_are_refused():
  """Attention sees an interval of queries a key: it relies on whole runs."""
  batch, _ = packing.pack(
    [_sequence(3, 1), _sequence(4, 2)], length=8, rows_multiple=1
  )
  packing._check_contiguous(batch)
  for name, ids in {
    "segment_ids": [1, 2, 1, 2, 2, 2, 2, 0],
    "sequence_ids": [1, 1, 0, 2, 2, 2, 2, 0],
  }.items():
    mixed = batch._replace(**{name: np.array([ids], np.int32)})
    with pytest.raises(AssertionError, match="mixed"):
      packing._check_contiguous(mixed)
