"""Schedules by hand, AdamW against its formula, and float32 state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atlas_jax.config import OptimizerConfig
from atlas_jax.model import decoder
from atlas_jax.training import optimizer
from tests.training import tiny


def _rates(total, **options):
  config = OptimizerConfig(learning_rate=2.0, **options)
  schedule = optimizer.make_schedule(config, total)
  return [float(schedule(n)) for n in range(total + 1)]


def test_schedules_by_hand():
  warm = dict(warmup_steps=4)
  assert _rates(6, **warm) == [0.5, 1, 1.5, 2, 2, 2, 2]
  np.testing.assert_allclose(
    _rates(8, schedule="linear", **warm),
    [0.5, 1, 1.5, 2, 2, 1.5, 1, 0.5, 0],
  )
  np.testing.assert_allclose(
    _rates(8, schedule="linear", final_fraction=0.5, **warm)[4:],
    [2, 1.75, 1.5, 1.25, 1],
  )
  cosine = _rates(8, schedule="cosine", final_fraction=0.1, **warm)
  expected = [0.2 + 1.8 * (1 + np.cos(np.pi * n / 4)) / 2 for n in range(5)]
  np.testing.assert_allclose(cosine[4:], expected, rtol=1e-6)
  # One step is enough for the decay.
  np.testing.assert_allclose(
    _rates(4, schedule="linear", warmup_steps=3), [2 / 3, 4 / 3, 2, 2, 0]
  )
  assert _rates(3, warmup_steps=0) == [2, 2, 2, 2]
  assert _rates(3, warmup_steps=1) == [2, 2, 2, 2]
  assert _rates(3, warmup_steps=2) == [1, 2, 2, 2]


class _Two(nnx.Module):
  def __init__(self, matrix, norm, dtype=jnp.float32):
    self.matrix = nnx.Param(jnp.asarray(matrix, dtype))
    self.final_norm = nnx.Param(jnp.asarray(norm, dtype))


def test_adamw_against_its_formula():
  config = OptimizerConfig(
    learning_rate=0.1,
    warmup_steps=3,
    b1=0.8,
    b2=0.95,
    eps=1e-3,
    weight_decay=0.5,
    clip_norm=2.0,
  )
  tx, schedule = optimizer.make_optimizer(config, 10)
  rng = np.random.default_rng(0)
  w, b = rng.normal(size=(2, 3)), rng.normal(size=3)
  params = _Two(w, b)
  state = tx.init(params)
  moments = np.zeros((2, 9))
  flat = np.concatenate([w.ravel(), b])
  decay = np.r_[np.full(6, 0.5), np.zeros(3)]
  for n in range(5):
    scale = 10.0 if n % 2 else 0.1  # clipped and not
    g = rng.normal(size=9) * scale
    grads = _Two(g[:6].reshape(2, 3), g[6:])
    assert optimizer.updates_done(state) == n
    updates, state = tx.update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    g = g * min(1.0, 2.0 / np.linalg.norm(g))
    moments[0] = 0.8 * moments[0] + 0.2 * g
    moments[1] = 0.95 * moments[1] + 0.05 * g * g
    m, v = moments[0] / (1 - 0.8 ** (n + 1)), moments[1] / (1 - 0.95 ** (n + 1))
    flat -= float(schedule(n)) * (m / (np.sqrt(v) + 1e-3) + decay * flat)
    np.testing.assert_allclose(
      np.r_[np.ravel(params.matrix[...]), params.final_norm[...]],
      flat,
      rtol=2e-5,
    )


def test_decay_leaves_norms_and_biases_alone():
  """Zero gradients: what moves is what decays."""
  config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.1)
  tx, _ = optimizer.make_optimizer(config, 10)
  model = jax.tree.map(np.ones_like, jax.device_get(tiny.model()))
  zeros = jax.tree.map(np.zeros_like, model)
  updates, _ = jax.jit(tx.update)(zeros, jax.jit(tx.init)(model), model)
  moved = {
    path[-2].name
    for path, u in jax.tree_util.tree_leaves_with_path(updates)
    if (np.asarray(u) != 0).all()
  }
  still = {
    path[-2].name
    for path, u in jax.tree_util.tree_leaves_with_path(updates)
    if (np.asarray(u) == 0).all()
  }
  assert moved == {
      "embedding", "head", "q", "k", "v", "o", "gate", "up", "down",
  }  # fmt: skip
  assert all(name.endswith(("_norm", "_bias")) for name in still)
  names = [*decoder.parameters(decoder.Block, tiny.ARCHITECTURE)]
  names += [*decoder.parameters(decoder.Decoder, tiny.ARCHITECTURE)]
  assert moved | still == set(names)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_state_is_float32_and_masters_move_at_a_small_rate(dtype):
  """20 updates at 1e-6: float32 weights all move, bfloat16 ones hardly do."""
  config = OptimizerConfig(learning_rate=1e-6, warmup_steps=0)
  tx, _ = optimizer.make_optimizer(config, 20)
  rng = np.random.default_rng(0)
  params = _Two(rng.normal(0, 0.02, (64, 64)), np.ones(3), dtype)
  before = params.matrix[...]
  state = tx.init(params)
  for leaf in jax.tree.leaves(state):
    assert leaf.dtype in (jnp.float32, jnp.int32)

  @jax.jit
  def update(params, state, grads):
    updates, state = tx.update(grads, state, params)
    return jax.tree.map(
      lambda p, u: (p + u).astype(p.dtype), params, updates
    ), state

  for _ in range(20):
    grads = _Two(rng.normal(1, 1, (64, 64)), np.zeros(3), dtype)
    params, state = update(params, state, grads)
  share = float((params.matrix[...] != before).mean())
  if dtype == "float32":
    assert share > 0.999
  else:
    assert share < 0.2
