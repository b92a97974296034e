import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.model import attention


def numpy_attention(q, k, v, mask):
  """One query at a time, float64; q [B T K R H], k and v [B S K H]."""
  out = np.zeros(q.shape)
  for b, t, h, r in np.ndindex(*q.shape[:4]):
    keys = np.flatnonzero(mask[b, t])
    if len(keys):
      scores = k[b, keys, h] @ q[b, t, h, r] / np.sqrt(q.shape[-1])
      weights = np.exp(scores - scores.max())
      out[b, t, h, r] = weights / weights.sum() @ v[b, keys, h]
  return out


def mask_of(*places):
  places = attention.Places(*places)
  return attention.visible(places, places)


@pytest.fixture
def inputs():
  rng = np.random.default_rng(0)
  q = rng.normal(size=(2, 6, 2, 3, 4))
  k, v = rng.normal(size=(2, 2, 6, 2, 4))
  segments = np.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]])
  positions = np.array([[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 0]])
  return q, k, v, segments, positions


def test_mask_by_hand():
  segments = jnp.array([[1, 1, 2, 2, 0]])
  positions = jnp.array([[0, 1, 0, 1, 0]])
  mask = mask_of(segments, segments, positions)
  assert mask[0].astype(int).tolist() == [
    [1, 0, 0, 0, 0],
    [1, 1, 0, 0, 0],
    [0, 0, 1, 0, 0],
    [0, 0, 1, 1, 0],
    [0, 0, 0, 0, 0],
  ]


def test_mask_of_a_shared_prompt_by_hand():
  # Two branches after a prompt of three tokens (two shared), then a lone one.
  segments = jnp.array([[1, 1, 1, 1, 1, 2, 2]])
  sequences = jnp.array([[0, 0, 1, 1, 2, 3, 3]])
  positions = jnp.array([[0, 1, 2, 3, 2, 0, 1]])
  mask = mask_of(segments, sequences, positions)
  assert mask[0].astype(int).tolist() == [
    [1, 0, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0, 0],
    [1, 1, 1, 0, 0, 0, 0],
    [1, 1, 1, 1, 0, 0, 0],
    [1, 1, 0, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 1, 0],
    [0, 0, 0, 0, 0, 1, 1],
  ]


def test_attend_equals_numpy(inputs):
  q, k, v, segments, positions = inputs
  mask = mask_of(segments, segments, positions)
  out = attention.attend(*(jnp.float32(x) for x in (q, k, v)), mask)
  expected = numpy_attention(q, k, v, np.asarray(mask))
  np.testing.assert_allclose(out, expected, atol=1e-6)


def test_blocks_of_queries_equal_the_whole(inputs, monkeypatch):
  """Rows of 6 in blocks of 4: the second block is shorter than the first."""
  q, k, v, segments, positions = inputs
  mask = mask_of(segments, segments, positions)
  arrays = [jnp.float32(x) for x in (q, k, v)]

  def total(q, k, v):
    return jnp.sum(attention.attend(q, k, v, mask) ** 2)

  whole = jax.grad(total, argnums=(0, 1, 2))(*arrays)
  monkeypatch.setattr(attention, "_BLOCK", 4)
  expected = numpy_attention(q, k, v, np.asarray(mask))
  out = attention.attend(*arrays, mask)
  np.testing.assert_allclose(out, expected, atol=1e-6)
  parts = jax.grad(total, argnums=(0, 1, 2))(*arrays)
  for a, b in zip(parts, whole, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_padding_gives_zero_and_zero_gradient(inputs):
  q, k, v, segments, positions = inputs
  mask = mask_of(segments, segments, positions)

  def total(q, k, v):
    return jnp.sum(attention.attend(q, k, v, mask) ** 2)

  arrays = [jnp.float32(x) for x in (q, k, v)]
  out = attention.attend(*arrays, mask)
  assert not np.any(out[0, 5]) and not np.any(out[1, 4:])
  for grad in jax.grad(total, argnums=(0, 1, 2))(*arrays):
    assert np.all(np.isfinite(grad))
    assert not np.any(grad[0, 5]) and not np.any(grad[1, 4:])
    assert np.any(grad[0, :5])


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
