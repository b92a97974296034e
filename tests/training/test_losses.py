"""Losses by hand, and what masks, jit and packing must not change.

Against loops written from the formulas: test_losses_oracle.py.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training import losses
from tests.training import oracle
from tests.training.packed_losses import MAX_TOKENS, loss_of, value_and_grad


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def test_jit_changes_nothing(x64):
  arrays, _ = oracle.batch()
  knobs = dict(
    loss_type="grpo",
    ratio_level="sequence",
    mismatch="sequence_truncate",
    beta=0.1,
    ratio_cap=1.4,
  )
  value, grad = value_and_grad(arrays, **knobs)
  again, other = jax.jit(lambda a: value_and_grad(a, **knobs))(arrays)
  assert again == pytest.approx(float(value), abs=1e-14)
  np.testing.assert_allclose(other, grad, atol=1e-14)


def test_on_policy_ratio_is_one_and_its_gradient_is_the_advantage(x64):
  arrays, _ = oracle.batch()

  def loss(policy):
    old = jax.lax.stop_gradient(policy)
    return loss_of({**arrays, "policy": policy, "old": old})

  value, grad = jax.value_and_grad(loss)(jnp.asarray(arrays["policy"]))
  tokens = arrays["mask"].sum()
  expected = -(arrays["advantages"] * arrays["mask"]) / tokens
  assert value == pytest.approx(expected.sum(), abs=1e-12)
  np.testing.assert_allclose(grad, expected, atol=1e-12)


def _one_token(ratio, advantage, **knobs):
  """(loss, d loss / d policy, sums) of one token that was at log-prob 0."""
  a = jnp.full((1, 1), 1.0)

  def loss(policy):
    total, metrics = losses.grpo_loss(
      policy, a * 0, a * 0, None, a * advantage, a, a, a.astype(int),
      options=oracle.options(**knobs),
    )  # fmt: skip
    return total, metrics.sums

  (total, sums), grad = jax.value_and_grad(loss, has_aux=True)(
    a * jnp.log(ratio)
  )
  return float(total), float(grad[0, 0]), sums


def test_clip_by_hand(x64):
  # ratio 1.5, A 1: min(1.5, 1.28) = 1.28. ratio 0.5, A -1: max of the losses.
  total, grad, sums = _one_token(1.5, 1.0)
  assert (total, grad) == (pytest.approx(-1.28), 0)
  assert sums["clip_fraction_high"] == (1, 1)
  assert sums["clip_fraction_low"] == (0, 1)
  total, grad, sums = _one_token(0.5, -1.0)
  assert (total, grad) == (pytest.approx(0.8), 0)
  assert sums["clip_fraction_low"] == (1, 1)
  # The pessimistic sides are not clipped ...
  assert _one_token(1.5, -1.0)[:2] == pytest.approx((1.5, 1.5))
  assert _one_token(0.5, 1.0)[:2] == pytest.approx((-0.5, -0.5))
  # ... but by ratio_cap, where A < 0.
  total, grad, sums = _one_token(5.0, -1.0, ratio_cap=4.0)
  assert (total, grad) == (pytest.approx(4.0), 0)
  assert sums["clip_fraction_cap"] == (1, 1)
  total, _, sums = _one_token(5.0, 1.0, ratio_cap=4.0)
  assert total == pytest.approx(-1.28)
  assert sums["clip_fraction_cap"] == (0, 1)


def test_cispo_and_sapo_by_hand(x64):
  # cispo keeps the gradient of what it caps: -5 A d log p.
  knobs = dict(loss_type="cispo", eps_high=5.0)
  total, grad, sums = _one_token(8.0, 2.0, **knobs)
  assert total == pytest.approx(-5 * 2 * np.log(8.0))
  assert grad == pytest.approx(-10)
  assert sums["clip_fraction_high"] == (1, 1)
  assert "clip_fraction_low" not in sums
  assert _one_token(3.0, -2.0, **knobs)[1] == pytest.approx(6)
  # sapo: 4 s(0) = 2 at ratio 1, with slope 1 whatever tau is.
  total, grad, _ = _one_token(1.0, 3.0, loss_type="sapo")
  assert (total, grad) == (pytest.approx(-6), pytest.approx(-3))
  total, grad, _ = _one_token(1.0, -3.0, loss_type="sapo")
  assert (total, grad) == (pytest.approx(6 / 1.05), pytest.approx(3))


def test_metrics_by_loops(x64):
  arrays, _ = oracle.batch()
  entropy = np.abs(arrays["policy"])
  options = oracle.options(
    mismatch="token_mask", mismatch_min=0.7, ratio_cap=1.5
  )
  _, metrics = losses.grpo_loss(**arrays, options=options, entropy=entropy)
  real = arrays["mask"] > 0
  ratio = np.exp(arrays["policy"] - arrays["old"])[real]
  d = (arrays["old"] - arrays["behavior"])[real]
  x = (arrays["reference"] - arrays["policy"])[real]
  a = arrays["advantages"][real]
  expected = {
    "ratio_mean": ratio,
    "clip_fraction_low": (ratio < 0.8) & (a < 0),
    "clip_fraction_high": (ratio > 1.28) & (a > 0),
    "clip_fraction_cap": (ratio > 1.5) & (a < 0),
    "mismatch_kl": np.exp(d) - d - 1,
    "mismatch_mean": np.abs(d),
    "mismatch_fraction": (np.exp(d) < 0.7) | (np.exp(d) > 2),
    "kl": np.exp(x) - x - 1,
    "entropy": entropy[real],
  }
  assert set(metrics.sums) == set(expected)
  for name, values in expected.items():
    total, count = metrics.sums[name]
    assert total / count == pytest.approx(np.mean(values), abs=1e-12), name
    assert np.mean(values) > 0, name
  assert metrics.maxima["ratio_max"] == pytest.approx(ratio.max())
  assert metrics.maxima["mismatch_max"] == pytest.approx(np.abs(d).max())
  readme = pathlib.Path(losses.__file__).with_name("README.md").read_text()
  for name in (*metrics.sums, *metrics.maxima):
    assert f"`{name}`" in readme, name


def _every_kind(loss_type, ratio_level):
  return dict(
    loss_type=loss_type,
    ratio_level=ratio_level,
    mismatch=f"{ratio_level}_truncate",
    beta=0.1,
    kl_importance_weighted=True,
  )


@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
@pytest.mark.parametrize("ratio_level", losses.RATIO_LEVELS)
def test_what_the_mask_hides_changes_nothing(x64, loss_type, ratio_level):
  arrays, _ = oracle.batch()
  knobs = _every_kind(loss_type, ratio_level)
  keep = ("mask", "sequence_weights", "sequence_ids")
  value, grad = value_and_grad(arrays, **knobs)
  for garbage in (np.nan, np.inf, -1e30):
    dirty = {
      k: v if k in keep else jnp.where(arrays["mask"] > 0, v, garbage)
      for k, v in arrays.items()
    }
    again, other = value_and_grad(dirty, **knobs)
    assert again == value
    np.testing.assert_array_equal(other, grad)


@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
@pytest.mark.parametrize("ratio_level", losses.RATIO_LEVELS)
def test_all_masked_batch_is_zero_and_finite(x64, loss_type, ratio_level):
  arrays, _ = oracle.batch()
  arrays["mask"] = arrays["mask"] * 0
  value, grad = value_and_grad(arrays, **_every_kind(loss_type, ratio_level))
  assert value == 0
  assert not grad.any()


@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
def test_packed_rows_equal_a_row_for_each_sequence(x64, loss_type):
  arrays, completions = oracle.batch()
  knobs = {
    **_every_kind(loss_type, "sequence"),
    "mismatch": "sequence_mask",
    "mismatch_min": 0.5,
  }
  value, grad = value_and_grad(arrays, **knobs)
  apart = {k: np.zeros_like(v) for k, v in arrays.items()}
  numbers = [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]
  for to, (row, number) in enumerate(numbers):
    own = arrays["sequence_ids"][row] == number
    for name, array in arrays.items():
      apart[name][to, : own.sum()] = array[row, own]
  apart["sequence_ids"] = np.minimum(apart["sequence_ids"], 1)
  again, other = value_and_grad(apart, **knobs)
  assert again == pytest.approx(float(value), abs=1e-13)
  for to, (row, number) in enumerate(numbers):
    own = arrays["sequence_ids"][row] == number
    np.testing.assert_allclose(
      other[to, : own.sum()], grad[row, own], atol=1e-13
    )
  assert len(completions) == len(numbers) and np.abs(grad).max() > 1e-3


def test_k3_gradient_is_that_of_the_kl(x64):
  """E_p[grad] of k3 as used in the loss, enumerated over a toy vocabulary.

  With tokens from p at theta_0, the score-function term is absent: what is
  left is sum_v p(v) (1 - q(v)/p(v)) d log p(v) = -sum_v q(v) d log p(v), the
  gradient of KL(q || p).
  """
  rng = np.random.default_rng(0)
  theta = jnp.asarray(rng.normal(size=6))
  log_q = jax.nn.log_softmax(jnp.asarray(rng.normal(size=6)))

  def expected_k3(t):
    log_p = jax.nn.log_softmax(t)
    return jnp.sum(
      jax.lax.stop_gradient(jnp.exp(log_p)) * losses.k3(log_q - log_p)
    )

  def reverse_kl(t):
    return jnp.sum(jnp.exp(log_q) * (log_q - jax.nn.log_softmax(t)))

  np.testing.assert_allclose(
    jax.grad(expected_k3)(theta), jax.grad(reverse_kl)(theta), atol=1e-12
  )
  log_p = jax.nn.log_softmax(theta)
  kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q))
  assert expected_k3(theta) == pytest.approx(float(kl), abs=1e-12)


def test_importance_weighted_k3_has_the_gradient_of_the_kl(x64):
  """On-policy, with the ratio's gradient: d KL(p || q), enumerated.

  One sequence of one token a vocabulary entry, weighted by its probability.
  """
  rng = np.random.default_rng(0)
  theta = jnp.asarray(rng.normal(size=6))
  log_q = jax.nn.log_softmax(jnp.asarray(rng.normal(size=6)))
  ones = jnp.ones((6, 1))

  def in_the_loss(t):
    log_p = jax.nn.log_softmax(t)[:, None]
    fixed = jax.lax.stop_gradient(log_p)
    total, _ = losses.grpo_loss(
      log_p, fixed, fixed, log_q[:, None], 0 * ones, ones, jnp.exp(fixed),
      ones.astype(int), options=oracle.options(
        loss_type="grpo", beta=1.0, kl_importance_weighted=True
      ),
    )  # fmt: skip
    return total

  def kl(t):
    log_p = jax.nn.log_softmax(t)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))

  assert in_the_loss(theta) == pytest.approx(float(kl(theta)), abs=1e-12)
  np.testing.assert_allclose(
    jax.grad(in_the_loss)(theta), jax.grad(kl)(theta), atol=1e-12
  )


@pytest.mark.parametrize("top", [0.2, 0.35, 0.5, 1.0])
def test_entropy_mask_keeps_the_top_quantile(x64, top):
  rng = np.random.default_rng(0)
  entropy = rng.exponential(size=(2, 3, 11))
  mask = (rng.uniform(size=entropy.shape) < 0.7).astype(float)
  threshold = np.quantile(entropy[mask > 0], 1 - top)
  kept = losses.entropy_mask(jnp.asarray(entropy), jnp.asarray(mask), top)
  np.testing.assert_array_equal(kept, (mask > 0) & (entropy >= threshold))
  assert kept.sum() / mask.sum() == pytest.approx(top, abs=0.03)
  assert not losses.entropy_mask(jnp.asarray(entropy), mask * 0, top).any()


def test_sft_loss_by_hand():
  logprobs = jnp.array([[jnp.nan, -1.0, -2.0], [-4.0, -0.5, jnp.inf]])
  mask = jnp.array([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
  total, count = jax.jit(losses.sft_loss)(logprobs, mask)
  assert (total, count) == (3.5, 3)
  grad = jax.grad(lambda x: losses.sft_loss(x, mask)[0])(logprobs)
  np.testing.assert_array_equal(grad, -mask)


@pytest.mark.parametrize(
  "change, text",
  [
    (dict(loss_type="sum"), "unknown loss_type 'sum'; valid: grpo, bnpo"),
    (dict(ratio_level="row"), "ratio_level 'row'; valid: token, sequence"),
    (dict(mismatch="k1"), "unknown mismatch 'k1'; valid: none"),
    (dict(beta=0.1), "needs the reference"),
  ],
)
def test_refusals(change, text):
  arrays, _ = oracle.batch()
  arrays = {
    k: v if k == "sequence_ids" else np.asarray(v, np.float32)
    for k, v in arrays.items()
  }
  arrays["reference"] = None
  with pytest.raises(ValueError, match=text):
    losses.grpo_loss(**arrays, options=oracle.options(**change))


@pytest.mark.parametrize(
  "top, kept", [(1.0, [1, 1, 1]), (0.75, [0, 1, 1]), (0.25, [0, 0, 1])]
)
def test_entropy_mask_by_hand(top, kept):
  # Thresholds 0, 0.05 = halfway from 0 to 0.1, and 5.05.
  entropy = jnp.array([0.0, 0.1, 10.0])
  mask = losses.entropy_mask(entropy, jnp.ones(3), top)
  assert mask.tolist() == kept


def test_a_sum_over_one_token_is_divided_by_one():
  one = jnp.zeros((1, 1, 4)).at[0, 0, 2].set(1)
  for count in (one, 0 * one):
    for loss_type in ("grpo", "sapo", "dapo", "cispo", "bnpo"):
      found = losses.grpo_normalizer(count, count, loss_type, MAX_TOKENS)
      assert found == 1, loss_type
    found = losses.grpo_normalizer(count, count, "dr_grpo", MAX_TOKENS)
    assert found == MAX_TOKENS
    weights = losses.token_weights(count[0], count[0], "bnpo")
    assert weights.tolist() == count[0].tolist()


def test_a_token_without_an_advantage_is_not_clipped():
  ratio = jnp.array([[0.5, 0.5, 3.0, 3.0, 3.0]])
  advantages = jnp.array([[0.0, -1.0, 0.0, 1.0, -1.0]])

  def clipped(**knobs):
    options = oracle.options(**knobs)
    _, where = losses.policy_loss(ratio, ratio, advantages, options)
    return {k: jnp.flatnonzero(v[0]).tolist() for k, v in where.items()}

  assert clipped(loss_type="dapo", ratio_cap=2.0) == {
    "clip_fraction_low": [1],
    "clip_fraction_high": [3],
    "clip_fraction_cap": [4],
  }
  assert clipped(loss_type="cispo", eps_high=2.0) == {
    "clip_fraction_high": [3, 4]
  }
