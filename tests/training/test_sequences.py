"""Sums over sequences by hand; on eight devices: test_sharded_steps.py."""

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.training import sequences

IDS = jnp.array([[1, 1, 2, 0, 2, 0], [0, 0, 1, 1, 1, 3]])
X = jnp.array([[1.0, 2, 4, 8, 16, 32], [1, 2, 4, 8, 16, 32]])


def test_every_token_gets_the_sum_of_its_sequence():
  assert sequences.sequence_sum(X, IDS).tolist() == [
    [3, 3, 20, 0, 20, 0],
    [0, 0, 28, 28, 28, 32],
  ]


def test_every_token_may_be_a_sequence():
  ids = jnp.array([[1, 2, 3]])
  assert sequences.sequence_sum(X[:1, :3], ids).tolist() == [[1, 2, 4]]


def test_the_mean_is_over_what_the_mask_leaves():
  mask = jnp.array([[1.0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
  assert sequences.sequence_mean(X, mask, IDS).tolist() == [
    [1, 1, 10, 0, 10, 0],
    [0, 0, 6, 6, 6, 0],
  ]


def test_the_gradient_goes_back_to_the_sequence():
  weight = jnp.arange(12.0).reshape(2, 6)
  grad = jax.jit(
    jax.grad(lambda x: jnp.sum(sequences.sequence_sum(x, IDS) * weight))
  )(X)
  np.testing.assert_array_equal(grad, sequences.sequence_sum(weight, IDS))
