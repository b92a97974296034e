"""Losses against loops written from the formulas, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training import losses
from atlas_jax.training.mismatch import MISMATCHES
from tests.training import oracle
from tests.training.packed_losses import MAX_TOKENS, value_and_grad


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def _check(arrays, completions, **knobs):
  """Value and gradient equal the oracle's; returns the gradient."""
  value, grad = value_and_grad(arrays, **knobs)
  expected, gradient = oracle.loss_and_gradient(
    arrays, completions, max_completion_tokens=MAX_TOKENS, **knobs
  )
  assert grad.dtype == jnp.float64
  assert value == pytest.approx(expected, abs=1e-12), knobs
  np.testing.assert_allclose(
    grad, gradient, atol=1e-12, rtol=0, err_msg=str(knobs)
  )
  return gradient


@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
@pytest.mark.parametrize("ratio_level", losses.RATIO_LEVELS)
def test_loss_and_gradient_match_the_formulas(loss_type, ratio_level):
  arrays, completions = oracle.batch()
  arrays["behavior"][1, 5] = np.nan  # a token without a sampler's log-prob
  clips = loss_type not in ("cispo", "sapo")
  for mismatch, (beta, weighted), ratio_cap in itertools.product(
    MISMATCHES,
    [(0.0, False), (0.04, False), (0.04, True)],
    [None, 1.4] if clips else [None],
  ):
    gradient = _check(
      arrays,
      completions,
      loss_type=loss_type,
      ratio_level=ratio_level,
      eps_high=1.2 if loss_type == "cispo" else 0.28,
      ratio_cap=ratio_cap,
      beta=beta,
      kl_importance_weighted=weighted,
      mismatch=mismatch,
      mismatch_min=0.6,
      mismatch_max=1.7,
    )
    assert np.abs(gradient).max() > 1e-3


CHANGES = [
  (dict(eps_low=0.1), {}),
  (dict(eps_high=0.1), {}),
  (dict(eps_high=2.0), dict(loss_type="cispo", eps_high=1.1)),
  (dict(ratio_cap=1.3), {}),
  (dict(ratio_cap=1.1), dict(ratio_level="sequence")),
  (dict(beta=0.1), {}),
  (dict(kl_importance_weighted=True), dict(beta=0.1)),
  (dict(ratio_level="sequence"), {}),
  *((dict(mismatch=m), {}) for m in MISMATCHES if m != "none"),
  *(
    (change, dict(mismatch=m))
    for m in MISMATCHES
    if m != "none"
    for change in (dict(mismatch_min=0.9), dict(mismatch_max=1.1))
  ),
  *((dict(loss_type=t), {}) for t in losses.LOSS_TYPES if t != "dapo"),
]


@pytest.mark.parametrize("change, base", CHANGES, ids=str)
def test_every_option_matters(change, base):
  arrays, completions = oracle.batch()
  after = _check(arrays, completions, **{**base, **change})
  _, before = oracle.loss_and_gradient(
    arrays, completions, max_completion_tokens=MAX_TOKENS, **base
  )
  if change == dict(loss_type="bnpo"):  # dapo, but for the cut: test_step.py
    np.testing.assert_array_equal(after, before)
  else:
    assert np.abs(after - before).max() > 1e-6


def test_every_loss_type_has_a_loss_of_its_own():
  """Gradients of the batch tell all apart: none falls through to another."""
  arrays, _ = oracle.batch()
  grads = {
    loss_type: np.asarray(
      value_and_grad(arrays, loss_type=loss_type, eps_high=1.2)[1]
    )
    for loss_type in losses.LOSS_TYPES
  }
  same = {
    frozenset((a, b))
    for a, b in itertools.combinations(grads, 2)
    if np.allclose(grads[a], grads[b], atol=1e-9)
  }
  assert same == {frozenset(("bnpo", "dapo"))}  # but for the cut: test_step.py
