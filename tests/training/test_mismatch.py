"""rho by hand; in the loss it is tested by test_losses.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training import mismatch

# exp(d): 0.5, 3, 1, 1 in one sequence, 4 and 0.5 in the next, padding.
D = np.log([[0.5, 3.0, 1.0, 1.0, 4.0, 0.5, 1.0]])
IDS = np.array([[1, 1, 1, 1, 2, 2, 0]])


@pytest.mark.parametrize(
  "kind, rho",
  [
    ("none", [1, 1, 1, 1, 1, 1, 1]),
    ("token_truncate", [0.8, 2, 1, 1, 2, 0.8, 1]),
    ("token_mask", [0, 0, 1, 1, 0, 0, 1]),
    ("sequence_truncate", [1.5, 1.5, 1.5, 1.5, 2, 2, 1]),
    ("sequence_mask", [1.5, 1.5, 1.5, 1.5, 2, 2, 1]),
  ],
)
def test_weights_by_hand(kind, rho):
  weights, outside = mismatch.mismatch_weights(
    jnp.asarray(D), jnp.asarray(IDS), kind, 0.8, 2.0001
  )
  np.testing.assert_allclose(weights[0], rho, atol=2e-4)
  touched = [1, 1, 0, 0, 1, 1, 0] if kind.startswith("token") else [0] * 7
  assert outside[0].tolist() == touched


def test_a_sequence_outside_the_bounds_is_left_out_whole():
  weights, outside = mismatch.mismatch_weights(
    jnp.asarray(D), jnp.asarray(IDS), "sequence_mask", 0.0, 1.9
  )
  np.testing.assert_allclose(
    weights[0], [1.5, 1.5, 1.5, 1.5, 0, 0, 1], rtol=1e-6
  )
  assert outside[0].tolist() == [0, 0, 0, 0, 1, 1, 0]


def test_an_infinite_ratio_is_bounded_or_left_out():
  d = jnp.array([[jnp.inf, -jnp.inf]])
  ids = jnp.array([[1, 2]])
  truncated, _ = mismatch.mismatch_weights(d, ids, "token_truncate", 0.1, 2.0)
  np.testing.assert_allclose(truncated, [[2, 0.1]])
  masked, _ = mismatch.mismatch_weights(d, ids, "sequence_mask", 0.1, 2.0)
  assert masked.tolist() == [[0, 0]]


def test_a_sampler_without_logprobs_is_taken_as_the_trainer():
  old = jnp.array([[-1.0, -2.0, -3.0]])
  behavior = jnp.array([[-1.5, jnp.nan, -1.0]])
  d = mismatch.mismatch_log_ratio(old, behavior, jnp.array([[1.0, 1.0, 0.0]]))
  assert d.tolist() == [[0.5, 0.0, 0.0]]
  grad = jax.grad(
    lambda x: mismatch.mismatch_log_ratio(x, behavior, behavior * 0 + 1).sum()
  )(old)
  assert not grad.any()


@pytest.mark.parametrize("kind", ["token_mask", "sequence_mask"])
@pytest.mark.parametrize(("low", "high"), [(1.0, 2.0), (0.5, 1.0)])
def test_a_ratio_on_a_bound_is_inside(kind, low, high):
  d, ids = jnp.zeros((1, 2)), jnp.array([[1, 2]])
  weights, outside = mismatch.mismatch_weights(d, ids, kind, low, high)
  assert weights.tolist() == [[1, 1]] and outside.tolist() == [[0, 0]]
