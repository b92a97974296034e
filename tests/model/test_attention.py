"""Attention against a dense oracle in float64, and rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.data import packing
from atlas_jax.model import attention
from tests.model import dense_attention


def until(segments, sequences):
  ids = jnp.array([segments]), jnp.array([sequences])
  return attention.visible_until(*ids)[0].tolist()


def test_intervals_by_hand():
  assert until([1, 1, 2, 2, 0], [1, 1, 2, 2, 0]) == [2, 2, 4, 4, 0]
  # Two branches after a prompt of three tokens (two shared), then a lone one.
  assert until([1, 1, 1, 1, 1, 2, 2], [0, 0, 1, 1, 2, 3, 3]) == [
    *(5, 5),
    *(4, 4),
    5,
    *(7, 7),
  ]


def random_rows(rng, *, length, rows, share_prompts):
  """A packed batch of prompts with several completions each, in `rows` rows."""
  sequences = []
  for group in range(rows):
    prompt = rng.integers(0, 9, rng.integers(1, length // 3))
    for _ in range(rng.integers(1, 5)):
      n = len(prompt) + int(rng.integers(1, length // 3))
      mask = np.arange(n) >= len(prompt)
      tokens = np.concatenate([prompt, np.full(n - len(prompt), group)])
      sequences.append(
        packing.TokenSequence(tokens, mask, prompt_length=len(prompt))
      )
  batch, _ = packing.pack(
    sequences, length=length, rows_multiple=2, share_prompts=share_prompts
  )
  return batch


def oracle_mask(batch):
  return dense_attention.visible(
    batch.segment_ids, batch.sequence_ids, batch.positions
  )


def interval_mask(batch):
  end = np.asarray(
    attention.visible_until(batch.segment_ids, batch.sequence_ids)
  )
  at = np.arange(end.shape[1])
  return (at <= at[:, None]) & (at[:, None] < end[:, None, :])


@pytest.mark.parametrize("share_prompts", [False, True])
def test_intervals_are_the_rules_of_packing(share_prompts):
  rng = np.random.default_rng(0)
  seen = 0
  for length in (24, 31, 64, 200):
    for _ in range(3):
      batch = random_rows(
        rng, length=length, rows=6, share_prompts=share_prompts
      )
      mask = oracle_mask(batch)
      np.testing.assert_array_equal(interval_mask(batch), mask)
      seen += mask.sum()
  assert seen > 10_000


def inputs(rng, batch):
  b, t = batch.tokens.shape
  q, d_out = rng.normal(size=(2, b, t, 2, 3, 4))
  k, v = rng.normal(size=(2, b, t, 2, 4))
  return (q, k, v), d_out


def attend(batch, q, k, v):
  end = attention.visible_until(batch.segment_ids, batch.sequence_ids)
  at = jnp.arange(end.shape[1])
  return attention.packed_attention(q, k, v, at, end)


# In one block; in blocks that divide the row; in blocks that do not.
@pytest.mark.parametrize("block", [256, 8, 7])
def test_attention_and_its_gradients_equal_the_oracle(block, monkeypatch):
  monkeypatch.setattr(attention, "_BLOCK", block)
  rng = np.random.default_rng(1)
  batch = random_rows(rng, length=40, rows=3, share_prompts=True)
  arrays, d_out = inputs(rng, batch)
  mask = oracle_mask(batch)
  assert not mask.any(axis=2).all()  # padding
  out, pull = jax.vjp(
    lambda *qkv: attend(batch, *qkv), *(jnp.float32(x) for x in arrays)
  )
  expected = dense_attention.attention(*arrays, mask)
  np.testing.assert_allclose(out, expected, atol=2e-6)
  expected = dense_attention.gradients(*arrays, mask, d_out)
  for ours, theirs in zip(pull(jnp.float32(d_out)), expected, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_queries_may_be_a_part_of_the_row(monkeypatch):
  """As under context parallelism: every other query, all keys."""
  monkeypatch.setattr(attention, "_BLOCK", 8)
  rng = np.random.default_rng(2)
  batch = random_rows(rng, length=40, rows=2, share_prompts=True)
  (q, k, v), _ = inputs(rng, batch)
  q, k, v = (jnp.float32(x) for x in (q, k, v))
  end = attention.visible_until(batch.segment_ids, batch.sequence_ids)
  at = jnp.arange(1, 40, 2)
  part = attention.packed_attention(q[:, 1::2], k, v, at, end)
  np.testing.assert_allclose(part, attend(batch, q, k, v)[:, 1::2], atol=1e-6)


def test_padding_gives_zero_and_zero_gradient():
  rng = np.random.default_rng(3)
  batch = random_rows(rng, length=40, rows=3, share_prompts=False)
  arrays, _ = inputs(rng, batch)
  arrays = [jnp.float32(x) for x in arrays]
  padding = batch.segment_ids == 0
  assert padding.any() and not padding.all()

  def total(q, k, v):
    return jnp.sum(attend(batch, q, k, v) ** 2)

  assert not np.any(np.asarray(attend(batch, *arrays))[padding])
  for grad in map(np.asarray, jax.grad(total, argnums=(0, 1, 2))(*arrays)):
    assert np.isfinite(grad).all()
    assert not grad[padding].any()
    assert grad[~padding].any()


@pytest.mark.parametrize("what", ["forward", "backward"])
def test_blocks_that_nobody_sees_are_not_multiplied(what, monkeypatch):
  """NaN in keys and values of another segment reaches nothing."""
  monkeypatch.setattr(attention, "_BLOCK", 8)
  segments = jnp.array([[1] * 16 + [2] * 16])
  end = attention.visible_until(segments, segments)
  at = jnp.arange(32)
  rng = np.random.default_rng(4)
  q, k, v = (
    jnp.float32(rng.normal(size=(1, 32, 1, *n))) for n in ((1, 4), (4,), (4,))
  )
  k, v = (x.at[:, :16].set(jnp.nan) for x in (k, v))

  def second(q, k, v):
    return attention.packed_attention(q, k, v, at, end)[:, 16:]

  if what == "forward":
    result = second(q, k, v)
  else:
    result = jax.grad(lambda q: jnp.sum(second(q, k, v)))(q)[:, 16:]
  assert np.isfinite(result).all()


def test_memory_grows_with_the_row_and_not_with_its_square():
  def temporaries(length):
    shape = jax.ShapeDtypeStruct((1, length, 1, 1, 8), jnp.float32)
    key = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def total(q, k, v, segments):
      end = attention.visible_until(segments, segments)
      at = jnp.arange(length)
      return jnp.sum(attention.packed_attention(q, k, v, at, end))

    f = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    compiled = f.lower(shape, key, key, ids).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  short, long = temporaries(2048), temporaries(16384)
  assert long < 8.5 * short
  assert long < 16384**2  # one byte a pair


def test_rotation_depends_on_distance_alone():
  rng = np.random.default_rng(1)
  x, y = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

  def product(p, q):
    out = []
    for value, position in ((x, p), (y, q)):
      freqs = np.array([1.0, 0.3, 0.1, 0.02], np.float32)
      angle = position * freqs[None, None]
      out.append(attention.rotate(value, np.cos(angle), np.sin(angle)))
    return float(jnp.sum(out[0] * out[1]))

  assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-4)
  assert product(7, 3) != pytest.approx(product(7, 4), abs=1e-2)
