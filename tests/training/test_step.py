"""What a step computes, keeps, skips; and that layout never matters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.config import GrpoConfig, OptimizerConfig
from atlas_jax.data import packing
from atlas_jax.metrics import means
from atlas_jax.model import decoder
from atlas_jax.training import optimizer, scoring, step
from tests.model import by_hand
from tests.training import tiny


def _flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def _objective(grpo):
  return step.grpo_objective(
    tiny.ARCHITECTURE,
    tiny.OPTIONS,
    grpo,
    temperature=tiny.TEMPERATURE,
    max_completion_tokens=16,
  )


@functools.cache
def _gradients(grpo):
  objective = _objective(grpo)
  return jax.jit(lambda model, batch: step.gradients(objective, model, batch))


def _reversed(n=19):
  return list(range(n))[::-1]


_LAYOUTS = [
  dict(order=np.random.default_rng(1).permutation(19)),
  dict(micro_batches=4, order=_reversed()),
  dict(micro_batches=2, length=48, rows_multiple=8),  # other neighbours
]


@pytest.mark.parametrize(
  "grpo",
  [
    GrpoConfig(loss_type="dapo", beta=0.04),
    pytest.param(
      GrpoConfig(
        loss_type="grpo",
        ratio_level="sequence",
        mismatch="sequence_truncate",
        beta=0.04,
      ),
      marks=pytest.mark.slow,
    ),
  ],
  ids=["dapo", "grpo-sequence"],
)
def test_layout_never_changes_the_gradient(grpo):
  f = _gradients(grpo)
  expected, metrics = f(tiny.model(), tiny.batch(1))
  expected = _flat(expected)
  for layout in _LAYOUTS:
    grads, others = f(tiny.model(), tiny.batch(**layout))
    difference = _flat(grads) - expected
    assert np.linalg.norm(difference) < 1e-6 * np.linalg.norm(expected), layout
    assert np.abs(difference).max() < 1e-6 * np.abs(expected).max(), layout
    for name, (total, count) in metrics.sums.items():
      other = others.sums[name]
      assert other[0] == pytest.approx(float(total), rel=1e-5, abs=1e-5), name
      assert other[1] == count, name
    for name, value in metrics.maxima.items():
      assert others.maxima[name] == pytest.approx(float(value), rel=1e-5)


def test_loss_is_the_average_over_what_its_type_names():
  """On-policy without mismatch and KL the value is -mean(A), by hand."""
  batch = tiny.batch(2)
  items = [s for s in tiny.sequences() if s.loss_mask.any()]
  lengths = np.array([s.loss_mask.sum() for s in items])
  advantages = np.array([s.advantage for s in items])
  expected = {
    "dapo": -(advantages * lengths).sum() / lengths.sum(),
    "grpo": -advantages.sum() / 19,  # the silent ones count
  }
  for loss_type, value in expected.items():
    grpo = GrpoConfig(loss_type=loss_type, mismatch="none")
    objective = _objective(grpo)
    total, count = 0.0, objective.normalizer(batch)
    for m in range(2):
      micro = packing.PackedBatch(*(a[m] for a in batch))
      total += jax.jit(objective.micro_sum)(tiny.model(), micro)[0]
    assert total / count == pytest.approx(value, rel=1e-5)


@functools.cache
def _programs(objective, **options):
  """(transformation, jitted step) for an objective."""
  config = OptimizerConfig(
    **{"learning_rate": 1e-2, "warmup_steps": 0, **options}
  )
  tx, schedule = optimizer.make_optimizer(config, 100)
  return tx, step.make_train_step(objective, tx, schedule, skip_grad_norm=None)


def _step(objective, **options):
  tx, train = _programs(objective, **options)
  # Bound to its device, so that the second step is the program of the first.
  state = jax.device_put(step.init_state(tiny.model(), tx), jax.devices()[0])
  return train, state


@functools.cache
def _sft():
  return step.sft_objective(tiny.ARCHITECTURE, tiny.OPTIONS)


def test_sft_learns_and_a_bad_gradient_is_skipped():
  train, state = _step(_sft())
  batch = tiny.batch(2)
  values, programs = [], set()
  for _ in range(12):
    state, metrics = train(state, batch)
    values.append(means([metrics]))
    programs.add(train._cache_size())
  assert values[0]["loss"] == pytest.approx(np.log(48), abs=0.5)
  assert values[-1]["loss"] < 0.7 * values[0]["loss"]
  assert values[0]["learning_rate"] == pytest.approx(1e-2)
  assert values[0]["trained_tokens"] == batch.loss_mask.sum()
  assert all(v["update_skipped"] == 0 for v in values)

  poisoned = batch.loss_mask.copy()
  poisoned[0, 0, 3] = np.nan
  before = jax.tree.map(np.array, state)
  state, metrics = train(state, batch._replace(loss_mask=poisoned))
  assert metrics.sums["update_skipped"] == (1, 1)
  assert not np.isfinite(metrics.sums["grad_norm"][0])
  assert int(state.step) == 13
  np.testing.assert_array_equal(_flat(state.model), _flat(before.model))
  np.testing.assert_array_equal(_flat(state.opt_state), _flat(before.opt_state))
  assert int(optimizer.updates_done(state.opt_state)) == 12
  state, metrics = train(state, batch)
  assert metrics.sums["update_skipped"][0] == 0
  assert np.abs(_flat(state.model) - _flat(before.model)).max() > 0
  assert programs == {train._cache_size()}


def test_grpo_raises_good_teachings_and_lowers_bad_ones():
  grpo = GrpoConfig(mismatch="none")
  train, state = _step(_objective(grpo), learning_rate=3e-3)
  # beta is 0: what stands in ref_logprobs is not read.
  batch = tiny.batch(2)
  batch = batch._replace(ref_logprobs=np.full_like(batch.ref_logprobs, np.nan))
  score = scoring.make_score_step(
    tiny.ARCHITECTURE, tiny.OPTIONS, temperature=tiny.TEMPERATURE
  )
  before = np.asarray(score(state.model, batch))
  for _ in range(3):
    state, metrics = train(state, batch)
    assert metrics.sums["update_skipped"][0] == 0
    assert "kl" not in metrics.sums
  change = np.asarray(score(state.model, batch)) - before
  good = (batch.loss_mask > 0) & (batch.advantages > 0)
  bad = (batch.loss_mask > 0) & (batch.advantages < 0)
  assert change[good].mean() > 0.05
  assert change[bad].mean() < -0.05


def test_score_is_the_log_softmax_at_the_temperature():
  batch = tiny.batch(2)
  model = tiny.model()
  scores = scoring.make_score_step(
    tiny.ARCHITECTURE, tiny.OPTIONS, temperature=tiny.TEMPERATURE
  )(model, batch)
  assert scores.shape == batch.tokens.shape

  @jax.jit
  def all_logits(*ids):
    hidden = decoder.forward(
      model, tiny.ARCHITECTURE, by_hand.batch_of(*ids), by_hand.PLAIN
    )
    return by_hand.logits(model, tiny.ARCHITECTURE, hidden)

  for m in range(2):
    x = np.asarray(
      all_logits(*(a[m] for a in batch[:4])),
      np.float64,
    )
    x /= tiny.TEMPERATURE
    x -= np.log(np.exp(x).sum(-1, keepdims=True))
    expected = np.take_along_axis(
      x[:, :-1], batch.tokens[m][:, 1:, None], axis=-1
    )[..., 0]
    trained = batch.loss_mask[m][:, 1:] > 0
    np.testing.assert_allclose(
      np.asarray(scores[m])[:, 1:][trained], expected[trained], atol=2e-5
    )


def test_float32_masters_move_at_1e_6_under_bfloat16_compute():
  options = dataclasses.replace(
    tiny.OPTIONS, compute_dtype="bfloat16", remat="none"
  )
  objective = step.sft_objective(tiny.ARCHITECTURE, options)
  train, state = _step(objective, learning_rate=1e-6)
  before = jax.tree.map(np.array, state.model)
  for _ in range(3):
    state, _ = train(state, tiny.batch(2))
  for name in ("q", "o", "gate", "down"):
    new = np.asarray(getattr(state.model.blocks, name)[...])
    old = np.asarray(getattr(before.blocks, name)[...])
    assert new.dtype == np.float32
    assert (new != old).mean() > 0.99, name
    assert np.abs(new - old).max() < 1e-5


def test_the_reference_outlives_donation_and_follows_as_told():
  train, state = _step(_sft())
  frozen = scoring.copy_model(state.model, "float32")
  state, _ = train(state, tiny.batch(2))
  np.testing.assert_array_equal(_flat(frozen), _flat(tiny.model()))
  policy = _flat(state.model)
  expected = 0.9 * policy + 0.1 * _flat(frozen)
  follower = scoring.ema_update(frozen, state.model, 0.9)
  np.testing.assert_allclose(_flat(follower), expected, rtol=1e-5, atol=1e-7)


def test_abstract_state_is_the_state():
  tx, _ = optimizer.make_optimizer(OptimizerConfig(), 10)
  state = step.init_state(tiny.model(), tx)
  like = step.abstract_state(jax.eval_shape(lambda m: m, tiny.model()), tx)
  assert jax.tree.structure(like) == jax.tree.structure(state)
  for a, b in zip(jax.tree.leaves(like), jax.tree.leaves(state), strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_a_bfloat16_reference_scores_as_a_float32_one_to_the_bit():
  options = dataclasses.replace(
    tiny.OPTIONS, compute_dtype="bfloat16", remat="none"
  )
  score = scoring.make_score_step(
    tiny.ARCHITECTURE, options, temperature=tiny.TEMPERATURE
  )
  copy = scoring.copy_model(tiny.model(), "bfloat16")
  assert copy.blocks.q[...].dtype == jnp.bfloat16
  assert copy.final_norm[...].dtype == jnp.float32
  scores = score(tiny.model(), tiny.batch())
  np.testing.assert_array_equal(scores, score(copy, tiny.batch()))
  assert np.any(scores)
