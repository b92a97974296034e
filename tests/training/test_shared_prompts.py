"""A prompt stands once for all its completions, and nothing else changes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from atlas_jax.config import GrpoConfig
from atlas_jax.data import packing
from atlas_jax.training import scoring, step
from tests.training import tiny

LENGTH, ROWS = 24, 8


def _flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def _shared(sequences, micro_batches=1):
  batch, stats = packing.pack(
    sequences, length=LENGTH, rows_multiple=ROWS, share_prompts=True
  )
  # Sharing is what the tests are about: the prompts of 8 and 5 tokens stand
  # twice (cut in two) and once, for four and three completions.
  assert stats.shared_tokens == 2 * 7 + 2 * 4
  return packing.split_micro(batch, micro_batches)


def _packed(sequences):
  batch, stats = packing.pack(sequences, length=LENGTH, rows_multiple=ROWS)
  assert stats.shared_tokens == 0
  return packing.split_micro(batch, 1)


def _padded(sequences):
  """Every sequence in a row of its own."""
  rows = [packing.pack([s], length=LENGTH, rows_multiple=1) for s in sequences]
  batch = jax.tree.map(lambda *a: np.concatenate(a), *(b for b, _ in rows))
  return packing.split_micro(batch, 1)


@functools.cache
def _gradients(loss_type):
  """The objective's gradient and metrics; "sft" names the SFT objective."""
  if loss_type == "sft":
    objective = step.sft_objective(tiny.ARCHITECTURE, tiny.OPTIONS)
  else:
    grpo = GrpoConfig(loss_type=loss_type, beta=0.04)
    objective = step.grpo_objective(
      tiny.ARCHITECTURE,
      tiny.OPTIONS,
      grpo,
      temperature=tiny.TEMPERATURE,
      max_completion_tokens=16,
    )
  return jax.jit(lambda model, batch: step.gradients(objective, model, batch))


@functools.cache
def _score():
  score = scoring.make_score_step(
    tiny.ARCHITECTURE, tiny.OPTIONS, temperature=tiny.TEMPERATURE
  )
  return lambda batch: np.asarray(score(tiny.model(), batch))


def _by_sequence(scores, batch, sequences):
  """Log-probs of each sequence's trained tokens; advantages tell them apart."""
  trained = batch.loss_mask > 0
  return [
    scores[trained & (batch.advantages == np.float32(s.advantage))]
    for s in sequences
  ]


@pytest.mark.parametrize(
  "loss_type", ["dapo", pytest.param("grpo", marks=pytest.mark.slow)]
)
def test_gradients_of_all_layouts_are_equal(loss_type):
  sequences = tiny.groups()
  f = _gradients(loss_type)
  expected, metrics = f(tiny.model(), _padded(sequences))
  expected = _flat(expected)
  order = np.random.default_rng(1).permutation(len(sequences))
  layouts = {
    "packed": _packed(sequences),
    "shared": _shared(sequences),
    "shared, another order": _shared([sequences[i] for i in order]),
    "shared, micro-batches": _shared(sequences, 4),
  }
  for name, batch in layouts.items():
    grads, others = f(tiny.model(), batch)
    difference = _flat(grads) - expected
    assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(expected), name
    assert np.abs(difference).max() < 1e-5 * np.abs(expected).max(), name
    for key, (total, count) in metrics.sums.items():
      other = others.sums[key]
      assert other[0] == pytest.approx(float(total), rel=1e-5, abs=1e-5), key
      assert other[1] == count, key


def test_log_probs_of_all_layouts_are_equal():
  sequences = tiny.groups()
  padded = _padded(sequences)
  expected = _by_sequence(_score()(padded), padded, sequences)
  for s, logprobs in zip(sequences, expected, strict=True):
    assert len(logprobs) == s.loss_mask.sum()
    assert np.all(logprobs < 0)
  for batch in (_packed(sequences), _shared(sequences)):
    ours = _by_sequence(_score()(batch), batch, sequences)
    for a, b in zip(ours, expected, strict=True):
      np.testing.assert_allclose(a, b, atol=2e-6)


def _changed(sequence, first, stop):
  """The same sequence with other tokens from `first` up to `stop`."""
  tokens = sequence.tokens.copy()
  tokens[first:stop] = (tokens[first:stop] + 1) % tiny.ARCHITECTURE.vocab_size
  return dataclasses.replace(sequence, tokens=tokens)


def test_branches_see_their_prompt_and_not_each_other():
  sequences = tiny.groups()
  # 0, 2, 4 and 7 are the completions of a prompt of 8 tokens.
  other = [_changed(sequences[0], 8, None), *sequences[1:]]
  prompt = [
    _changed(s, 0, 1) if i in (0, 2, 4, 7) else s
    for i, s in enumerate(sequences)
  ]
  batches = [_shared(s) for s in (sequences, other, prompt)]
  before, after_other, after_prompt = (
    _by_sequence(_score()(b), b, sequences) for b in batches
  )
  assert np.all(before[0] != after_other[0])
  for i in range(1, len(sequences)):
    np.testing.assert_array_equal(before[i], after_other[i])
  for i in range(len(sequences)):
    moved = np.abs(before[i] - after_prompt[i])
    assert np.all(moved > 1e-5 if i in (0, 2, 4, 7) else moved == 0)


def test_no_gradient_flows_between_branches():
  sequences = tiny.groups()
  # Only sequence 7 is trained; 4, of the same prompt, stands in its row.
  silent = [
    dataclasses.replace(s, loss_mask=s.loss_mask * (i == 7))
    for i, s in enumerate(sequences)
  ]
  other = [_changed(s, 8, None) if i == 4 else s for i, s in enumerate(silent)]
  prompt = [
    _changed(s, 0, 1) if i in (0, 2, 4, 7) else s for i, s in enumerate(silent)
  ]
  batch = _shared(silent)
  rows = [
    set(np.argwhere(batch.advantages[0] == np.float32(s.advantage))[:, 0])
    for s in (silent[4], silent[7])
  ]
  assert rows[0] == rows[1]
  f = _gradients("sft")
  before, after_other, after_prompt = (
    _flat(f(tiny.model(), b)[0])
    for b in (batch, _shared(other), _shared(prompt))
  )
  np.testing.assert_array_equal(before, after_other)
  assert np.abs(before - after_prompt).max() > 1e-3
