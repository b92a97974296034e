"""Losses against loops written from the formulas, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training import losses

KNOBS = dict(
  loss_type="dapo",
  eps_low=0.2,
  eps_high=0.28,
  beta=0.0,
  mismatch="none",
  mismatch_max=2.0,
)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def _batch(seed=0, rows=3, length=12):
  """Rows of completions whose ratios reach both sides of the clip range."""
  rng = np.random.default_rng(seed)
  shape = (rows, length)
  mask = np.zeros(shape)
  weights = np.zeros(shape)
  advantages = np.zeros(shape)
  spans = [(0, 2, 5), (0, 7, 12), (1, 1, 2), (1, 4, 10)]  # row 2 has none
  for b, start, stop in spans:
    mask[b, start:stop] = 1
    weights[b, start:stop] = 1 / (stop - start)
    advantages[b, start:stop] = rng.normal() * 2
  weights[2, 3] = 1  # a completion without a trained token
  old = -rng.exponential(1.5, shape)
  batch = dict(
    policy=old + rng.normal(0, 0.3, shape),
    old=old,
    behavior=old + rng.normal(0, 0.5, shape),
    reference=old + rng.normal(0, 0.4, shape),
    advantages=advantages,
    mask=mask,
    sequence_weights=weights,
  )
  return batch, spans


def _oracle(batch, spans, completions, **knobs):
  """The GRPO loss by loops: per completion, per token."""
  k = {**KNOBS, **knobs}
  per_token, per_completion = [], []
  for b, start, stop in spans:
    tokens = []
    for t in range(start, stop):
      c1 = np.exp(batch["policy"][b, t] - batch["old"][b, t])
      c2 = min(max(c1, 1 - k["eps_low"]), 1 + k["eps_high"])
      a = batch["advantages"][b, t]
      l = -min(c1 * a, c2 * a)
      if k["mismatch"] == "token_truncate":
        d = batch["old"][b, t] - batch["behavior"][b, t]
        if not np.isnan(d):
          l *= min(np.exp(d), k["mismatch_max"])
      if k["beta"]:
        x = batch["reference"][b, t] - batch["policy"][b, t]
        l += k["beta"] * (np.exp(x) - x - 1)
      tokens.append(l)
    per_token += tokens
    per_completion.append(np.mean(tokens))
  if k["loss_type"] == "dapo":
    return np.sum(per_token) / max(len(per_token), 1)
  return np.sum(per_completion) / completions


def _loss(batch, **knobs):
  k = {**KNOBS, **knobs}
  total, _ = losses.grpo_loss(**batch, **k)
  return total / losses.grpo_normalizer(
    batch["mask"], batch["sequence_weights"], k["loss_type"]
  )


def _finite_difference(f, x):
  """df/dx of each entry, error O(h^4)."""
  grad = np.zeros_like(x)
  h = 1e-4
  for i in np.ndindex(x.shape):
    terms = []
    for step, weight in ((h, 8), (-h, -8), (2 * h, -1), (-2 * h, 1)):
      moved = x.copy()
      moved[i] += step
      terms.append(weight * f(moved))
    grad[i] = sum(terms) / (12 * h)
  return grad


@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
@pytest.mark.parametrize("mismatch", losses.MISMATCHES)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("jit", [False, True])
def test_loss_and_gradient_match_the_formulas(
  x64, loss_type, mismatch, beta, jit
):
  batch, spans = _batch()
  knobs = dict(loss_type=loss_type, mismatch=mismatch, beta=beta)

  def loss(policy):
    return _loss({**batch, "policy": policy}, **knobs)

  def oracle(policy):
    return _oracle({**batch, "policy": policy}, spans, 5, **knobs)

  f = jax.value_and_grad(loss)
  value, grad = (jax.jit(f) if jit else f)(jnp.asarray(batch["policy"]))
  assert grad.dtype == jnp.float64
  assert value == pytest.approx(oracle(batch["policy"]), abs=1e-12)
  expected = _finite_difference(oracle, batch["policy"])
  np.testing.assert_allclose(grad, expected, atol=1e-9, rtol=0)
  assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("option", [
    dict(eps_low=0.1), dict(eps_high=0.1), dict(mismatch="token_truncate"),
    dict(mismatch="token_truncate", mismatch_max=1.0), dict(beta=0.1),
    dict(loss_type="grpo"),
])  # fmt: skip
def test_every_option_matters(x64, option):
  batch, spans = _batch(1)
  assert _loss(batch, **option) == pytest.approx(
    _oracle(batch, spans, 5, **option), abs=1e-12
  )
  base = {"mismatch": option["mismatch"]} if "mismatch_max" in option else {}
  assert abs(_loss(batch, **option) - _loss(batch, **base)) > 1e-6


def test_on_policy_ratio_is_one_and_its_gradient_is_the_advantage(x64):
  batch, _ = _batch()

  def loss(policy):
    old = jax.lax.stop_gradient(policy)
    return _loss({**batch, "policy": policy, "old": old})

  value, grad = jax.value_and_grad(loss)(jnp.asarray(batch["policy"]))
  tokens = batch["mask"].sum()
  expected = -(batch["advantages"] * batch["mask"]) / tokens
  assert value == pytest.approx(expected.sum(), abs=1e-12)
  np.testing.assert_allclose(grad, expected, atol=1e-12)


def test_clip_by_hand(x64):
  # ratio 1.5, A 1: min(1.5, 1.28) = 1.28. ratio 0.5, A -1: max of the losses.
  def one(ratio, advantage):
    a = jnp.full((1, 1), 1.0)
    total, metrics = losses.grpo_loss(
      a * jnp.log(ratio), a * 0, a * 0, None, a * advantage, a, a, **KNOBS
    )
    return float(total), metrics.sums

  total, sums = one(1.5, 1.0)
  assert total == pytest.approx(-1.28)
  assert sums["clip_fraction_high"] == (1, 1)
  assert sums["clip_fraction_low"] == (0, 1)
  total, sums = one(0.5, -1.0)
  assert total == pytest.approx(0.8)
  assert sums["clip_fraction_low"] == (1, 1)
  assert one(1.5, -1.0)[0] == pytest.approx(1.5)  # pessimistic side: unclipped
  assert one(0.5, 1.0)[0] == pytest.approx(-0.5)


def test_metrics_by_loops(x64):
  batch, _ = _batch()
  entropy = np.abs(batch["policy"])
  _, metrics = losses.grpo_loss(**batch, **KNOBS, entropy=entropy)
  real = batch["mask"] > 0
  ratio = np.exp(batch["policy"] - batch["old"])[real]
  d = (batch["old"] - batch["behavior"])[real]
  x = (batch["reference"] - batch["policy"])[real]
  a = batch["advantages"][real]
  expected = {
    "ratio_mean": ratio,
    "clip_fraction_low": (ratio < 0.8) & (a < 0),
    "clip_fraction_high": (ratio > 1.28) & (a > 0),
    "mismatch_kl": np.exp(d) - d - 1,
    "kl": np.exp(x) - x - 1,
    "entropy": entropy[real],
  }
  assert set(metrics.sums) == set(expected)
  for name, values in expected.items():
    total, count = metrics.sums[name]
    assert total / count == pytest.approx(np.mean(values), abs=1e-12), name
  assert metrics.maxima["ratio_max"] == pytest.approx(ratio.max())
  assert metrics.maxima["mismatch_max"] == pytest.approx(np.abs(d).max())


@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
def test_what_the_mask_hides_changes_nothing(loss_type):
  batch, _ = _batch()
  knobs = dict(mismatch="token_truncate", beta=0.1, loss_type=loss_type)
  f = jax.value_and_grad(
    lambda p, b: _loss({**b, "policy": p}, **knobs), argnums=0
  )
  cast = {k: np.asarray(v, np.float32) for k, v in batch.items()}
  clean = f(jnp.asarray(cast["policy"]), cast)
  for garbage in (np.nan, np.inf, -1e30):
    dirty = {
      k: v
      if k in ("mask", "sequence_weights")
      else jnp.where(cast["mask"] > 0, v, np.float32(garbage))
      for k, v in cast.items()
    }
    value, grad = f(dirty["policy"], dirty)
    assert value == clean[0]
    np.testing.assert_array_equal(grad, clean[1])


@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
def test_all_masked_batch_is_zero_and_finite(loss_type):
  batch, _ = _batch()
  batch = {k: jnp.asarray(v, jnp.float32) for k, v in batch.items()}
  batch["mask"] = batch["mask"] * 0
  value, grad = jax.value_and_grad(
    lambda p: _loss({**batch, "policy": p}, loss_type=loss_type, beta=0.1)
  )(batch["policy"])
  assert value == 0
  assert not grad.any()


def test_sampler_without_logprobs_is_taken_as_the_trainer(x64):
  batch, spans = _batch()
  batch["behavior"][0, 3] = np.nan
  knobs = dict(mismatch="token_truncate")
  assert _loss(batch, **knobs) == pytest.approx(
    _oracle(batch, spans, 5, **knobs)
  )
  _, metrics = losses.grpo_loss(**batch, **{**KNOBS, **knobs})
  assert np.isfinite(metrics.sums["mismatch_kl"][0])


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


def test_sft_loss_by_hand():
  logprobs = jnp.array([[jnp.nan, -1.0, -2.0], [-4.0, -0.5, jnp.inf]])
  mask = jnp.array([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
  total, count = jax.jit(losses.sft_loss)(logprobs, mask)
  assert (total, count) == (3.5, 3)
  grad = jax.grad(lambda x: losses.sft_loss(x, mask)[0])(logprobs)
  np.testing.assert_array_equal(grad, -mask)


def test_combine_adds_sums_and_keeps_maxima():
  a = losses.Metrics({"x": (jnp.array(1.0), jnp.array(2.0))}, {"m": 3.0})
  b = losses.Metrics({"x": (jnp.array(4.0), jnp.array(1.0))}, {"m": 2.0})
  both = losses.combine(a, b)
  assert both.sums["x"] == (5, 3)
  assert both.maxima["m"] == 3


@pytest.mark.parametrize(
  "change, text",
  [
    (dict(loss_type="sum"), "unknown loss_type 'sum'; valid: grpo, dapo"),
    (dict(mismatch="k1"), "unknown mismatch 'k1'; valid: none"),
    (dict(beta=0.1, reference=None), "needs the reference"),
  ],
)
def test_refusals(change, text):
  batch, _ = _batch()
  batch = {k: np.asarray(v, np.float32) for k, v in batch.items()}
  with pytest.raises(ValueError, match=text):
    losses.grpo_loss(**{**batch, **KNOBS, **change})
