"""What the GRPO step adds to its loss, on a model that is one table.

The decoder is replaced by log-probs and entropies that are functions of a
weight for each token, so that everything around it can be tried in no time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atlas_jax.config import GrpoConfig
from atlas_jax.data import packing
from atlas_jax.model import matrices
from atlas_jax.training import losses, scoring, step
from tests.training import tiny

MAX_TOKENS = 16
BEFORE = np.random.default_rng(0).normal(size=48).astype(np.float32)
# So far away that ratios reach the clip range.
NOW = BEFORE + np.random.default_rng(1).normal(0, 0.3, 48).astype(np.float32)


def _table_score(model, architecture, options, batch, temperature, entropy):
  x = model[batch.tokens] / temperature
  scores = -3 - jax.nn.softplus(x)
  return (scores, x**2) if entropy else scores


@pytest.fixture(autouse=True)
def table(monkeypatch):
  for module in (step, scoring):
    monkeypatch.setattr(module, "score", _table_score)
  # The "model" is one array and no tree.
  monkeypatch.setattr(matrices, "cast_matrices", lambda model, dtype: model)


def _prepare(grpo, batch, model=BEFORE):
  prepare = scoring.make_prepare_step(
    None, None, grpo, temperature=tiny.TEMPERATURE
  )
  return prepare(jnp.asarray(model), jax.tree.map(jnp.asarray, batch))


def _objective(grpo):
  return step.grpo_objective(
    None,
    tiny.OPTIONS,
    grpo,
    temperature=tiny.TEMPERATURE,
    max_completion_tokens=MAX_TOKENS,
  )


def _gradients(grpo, batch, model=NOW):
  objective = _objective(grpo)
  f = jax.jit(functools.partial(step.gradients, objective))
  grads, metrics = f(jnp.asarray(model), _prepare(grpo, batch))
  return np.asarray(grads), metrics


@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
@pytest.mark.parametrize("ratio_level", losses.RATIO_LEVELS)
def test_the_cut_changes_nothing_but_bnpo(loss_type, ratio_level):
  grpo = GrpoConfig(
    epochs=2,
    loss_type=loss_type,
    ratio_level=ratio_level,
    eps_high=1.2 if loss_type == "cispo" else 0.28,
    mismatch=f"{ratio_level}_truncate",
    beta=0.04,
    kl_importance_weighted=True,
    entropy_share=0.6,
  )
  expected, metrics = _gradients(grpo, tiny.batch(1))
  for cut in (2, 4):
    grads, others = _gradients(grpo, tiny.batch(cut))
    difference = np.abs(grads - expected).max() / np.abs(expected).max()
    if loss_type == "bnpo":  # its two halves happen to be of equal size
      assert (difference > 1e-3) == (cut == 4)
      continue
    assert difference < 1e-6
    for name, (total, count) in metrics.sums.items():
      other = others.sums[name]
      assert other[0] == pytest.approx(float(total), rel=2e-5, abs=1e-5), name
      assert other[1] == count, name


def test_bnpo_is_the_mean_of_the_micro_batches():
  grpo = GrpoConfig(loss_type="bnpo", epochs=2)
  batch = tiny.batch(4)
  grads, metrics = _gradients(grpo, batch)
  alone = []
  for m in range(4):
    one = packing.PackedBatch(*(a[m : m + 1] for a in batch))
    alone.append(_gradients(grpo, one))
  np.testing.assert_allclose(
    grads, np.mean([g for g, _ in alone], axis=0), rtol=1e-5, atol=1e-7
  )
  loss = np.divide(*metrics.sums["loss"])
  assert loss == pytest.approx(
    np.mean([np.divide(*m.sums["loss"]) for _, m in alone]), rel=1e-5
  )


def test_dr_grpo_divides_by_the_longest_completion_there_may_be():
  grads, metrics = _gradients(GrpoConfig(loss_type="dr_grpo"), tiny.batch(2))
  assert metrics.sums["loss"][1] == 19 * MAX_TOKENS
  of_dapo, others = _gradients(GrpoConfig(loss_type="dapo"), tiny.batch(2))
  scale = float(others.sums["loss"][1]) / (19 * MAX_TOKENS)
  np.testing.assert_allclose(grads, of_dapo * scale, rtol=1e-5, atol=1e-7)


def test_what_the_updates_need_is_measured_once():
  batch = tiny.batch(2)
  assert _prepare(GrpoConfig(), batch).old_logprobs is not None
  np.testing.assert_array_equal(_prepare(GrpoConfig(), batch).old_logprobs, 0)
  prepared = _prepare(GrpoConfig(epochs=2), batch)
  x = BEFORE[batch.tokens] / tiny.TEMPERATURE
  np.testing.assert_allclose(
    prepared.old_logprobs, -3 - np.log1p(np.exp(x)), rtol=1e-5
  )
  np.testing.assert_array_equal(prepared.advantages, batch.advantages)


def test_the_entropy_threshold_is_that_of_the_whole_batch():
  batch = tiny.batch(2)
  real = batch.loss_mask > 0
  entropy = (BEFORE[batch.tokens] / tiny.TEMPERATURE) ** 2
  threshold = np.quantile(entropy[real], 0.7)
  # Apart, the micro-batches would have others.
  assert abs(np.quantile(entropy[0][real[0]], 0.7) - threshold) > 1e-3
  grpo = GrpoConfig(entropy_share=0.3)
  kept = real & (entropy >= threshold)
  prepared = _prepare(grpo, batch)
  np.testing.assert_array_equal(
    prepared.advantages, np.where(kept, batch.advantages, 0)
  )
  np.testing.assert_array_equal(prepared.loss_mask, batch.loss_mask)
  # Tokens that the kept ones are not have no gradient; the divisor stays.
  grads, metrics = _gradients(grpo, batch, BEFORE)
  assert set(np.flatnonzero(grads)) == set(batch.tokens[kept])
  assert metrics.sums["loss"][1] == real.sum()


def _train(grpo, steps, batch):
  tx = optax.adam(0.1)
  train = step.make_train_step(
    _objective(grpo),
    tx,
    lambda n: 0.1,
    skip_grad_norm=grpo.skip_grad_norm,
  )
  state = step.init_state(jnp.asarray(BEFORE), tx)
  batch = _prepare(grpo, batch)
  out = []
  for _ in range(steps):
    state, metrics = train(state, batch)
    out.append({k: float(np.divide(*v)) for k, v in metrics.sums.items()})
  return state, out


def test_epochs_compare_with_where_the_update_started():
  batch = tiny.batch(2)
  model, once = _train(GrpoConfig(), 2, batch)
  other, twice = _train(GrpoConfig(epochs=2), 2, batch)
  assert [x["ratio_mean"] for x in once] == pytest.approx([1, 1], abs=1e-6)
  assert twice[0]["ratio_mean"] == pytest.approx(1, abs=1e-6)
  assert abs(twice[1]["ratio_mean"] - 1) > 1e-3
  # The first of both is the same update.
  assert twice[0]["grad_norm"] == pytest.approx(once[0]["grad_norm"], rel=1e-5)
  x = (BEFORE[batch.tokens] / tiny.TEMPERATURE, batch.loss_mask > 0)
  old = (-3 - np.log1p(np.exp(x[0])))[x[1]]
  # And the second one's mismatch is still that of the policy that started.
  d = np.where(
    np.isnan(batch.behavior_logprobs[x[1]]),
    0,
    old - batch.behavior_logprobs[x[1]],
  )
  for metrics in twice:
    assert metrics["mismatch_kl"] == pytest.approx(
      np.mean(np.exp(d) - d - 1), rel=1e-4
    )
  assert np.abs(np.asarray(model.model) - np.asarray(other.model)).max() > 1e-5


def test_a_gradient_above_the_bound_is_skipped():
  batch = tiny.batch(2)
  _, (free,) = _train(GrpoConfig(), 1, batch)
  norm = free["grad_norm"]
  for bound, skipped in ((norm * 0.99, 1), (norm * 1.01, 0)):
    state, (metrics,) = _train(GrpoConfig(skip_grad_norm=bound), 1, batch)
    assert metrics["update_skipped"] == skipped
    assert metrics["grad_norm"] == norm
    moved = np.abs(np.asarray(state.model) - BEFORE).max() > 0
    assert moved == (not skipped)
    assert int(state.step) == 1


def test_empty_micro_batches_at_the_end_change_nothing():
  for loss_type in ("dapo", "bnpo"):
    grpo = GrpoConfig(loss_type=loss_type, epochs=2)
    batch = tiny.batch(2)
    longer = packing.PackedBatch(
      *(np.pad(a, ((0, 3), (0, 0), (0, 0))) for a in batch)
    )
    expected, metrics = _gradients(grpo, batch)
    grads, others = _gradients(grpo, longer)
    np.testing.assert_array_equal(grads, expected)
    for a, b in zip(
      jax.tree.leaves(others), jax.tree.leaves(metrics), strict=True
    ):
      np.testing.assert_array_equal(a, b)
    prepared = _prepare(grpo, longer).old_logprobs
    np.testing.assert_array_equal(
      prepared[:2], _prepare(grpo, batch).old_logprobs
    )
    assert not np.any(prepared[2:])
