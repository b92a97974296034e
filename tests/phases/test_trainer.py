"""The trainer of the GRPO phase, without servers, on a model of one table."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from atlas_jax import sharding
from atlas_jax.config import GrpoConfig, MeshConfig, OptimizerConfig, RunConfig
from atlas_jax.phases.trainer import Trainer, TrainingError
from atlas_jax.training import optimizer
from atlas_jax.training import step as step_lib
from tests.training import tiny

STEPS = 2


@pytest.fixture(autouse=True)
def table(monkeypatch):
  """Log-probs from the embedding alone: nothing else takes time to compile."""

  def score(model, architecture, options, batch, temperature, with_entropy):
    x = model.embedding[...].sum(-1)[batch.tokens]
    scores = -3 - jax.nn.softplus(x)
    return (scores, x**2) if with_entropy else scores

  monkeypatch.setattr(step_lib, "_score", score)


def _trainer(tmp_path, **options) -> Trainer:
  """On one device, with the tiny model of the training tests."""
  config = RunConfig(
    teacher=tiny.OPTIONS,
    grpo=GrpoConfig(
      steps=STEPS,
      row_length=32,
      micro_batches=2,
      optimizer=OptimizerConfig(
        learning_rate=1e-2,
        warmup_steps=0,
        schedule="linear",
      ),
      **options,
    ),
  )
  mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
  run = types.SimpleNamespace(
    config=config,
    workdir=tmp_path,
    splits=types.SimpleNamespace(train=[None]),
    model=tiny.model(),
    decoder_config=tiny.ARCHITECTURE,
    mesh=mesh,
    put=lambda batch: batch,
  )
  return Trainer(run, "1_grpo")


def test_a_step_makes_as_many_updates_as_it_has_epochs(tmp_path):
  trainer = _trainer(tmp_path, epochs=3, entropy_quantile=0.5)
  sequences = tiny.sequences(6)
  numbers = trainer.update(1, sequences)
  assert int(optimizer.updates_done(trainer.state.opt_state)) == 3
  # The first update is on-policy, the next ones are not.
  assert abs(numbers["ratio_mean"] - 1) > 1e-4
  # 1e-2 falls to 0 over all updates, not over the steps: 6/6, 5/6, 4/6.
  assert numbers["learning_rate"] == pytest.approx(1e-2 * 5 / 6)
  assert numbers["update_skipped"] == 0
  numbers = trainer.update(1, sequences)
  assert numbers["learning_rate"] == pytest.approx(1e-2 * 2 / 6)
  trainer.close()


def test_a_step_above_the_gradient_bound_changes_nothing(tmp_path):
  trainer = _trainer(tmp_path, skip_grad_norm=1e-6)
  numbers = trainer.update(1, tiny.sequences(6))
  assert numbers["update_skipped"] == 1
  assert int(optimizer.updates_done(trainer.state.opt_state)) == 0
  for new, old in zip(
    jax.tree.leaves(trainer.state.model),
    jax.tree.leaves(tiny.model()),
    strict=True,
  ):
    np.testing.assert_array_equal(new, old)
  trainer.close()


def test_a_run_that_never_updates_stops_and_keeps_its_batch(tmp_path):
  trainer = _trainer(tmp_path, skip_grad_norm=1e-6, max_skipped_steps=2)
  sequences = tiny.sequences(6)
  trainer.update(1, sequences)
  with pytest.raises(TrainingError, match=r"2 steps in a row.*1_grpo_2\.npz"):
    trainer.update(2, sequences)
  saved = np.load(tmp_path / "failed" / "1_grpo_2.npz")
  packed = trainer.packed(sequences)[0]
  for name, array in packed._asdict().items():
    np.testing.assert_array_equal(saved[name], array)
  trainer.close()


def test_an_update_that_counts_starts_the_count_anew(tmp_path):
  trainer = _trainer(tmp_path, max_skipped_steps=2)
  good = tiny.sequences(6)
  bad = [dataclasses.replace(s, advantage=np.nan) for s in good]
  for step, sequences in enumerate((bad, good, bad), 1):
    numbers = trainer.update(step, sequences)
    assert numbers["update_skipped"] == (sequences is bad)
  with pytest.raises(TrainingError, match="gradient norm nan"):
    trainer.update(4, bad)
  trainer.close()


def test_programs_are_counted_and_few(tmp_path):
  trainer = _trainer(tmp_path)
  first = trainer.update(1, tiny.sequences(6))
  assert first["programs_compiled"] > 0
  trainer.update(2, tiny.sequences(6))  # outside a mesh: layouts settle
  assert trainer.update(3, tiny.sequences(6))["programs_compiled"] == 0
  trainer.close()


@pytest.mark.parametrize(("alpha", "every"), [(0.25, 2), (0.0, 1)])
def test_the_reference_follows_every_so_many_steps(tmp_path, alpha, every):
  trainer = _trainer(
    tmp_path, beta=0.1, ref_ema_alpha=alpha, ref_ema_every=every
  )
  trainer._checkpoints.save = lambda *_: None

  def embedding(model):
    return np.asarray(model.embedding[...])

  start = embedding(trainer.reference)
  for step in (1, 2):
    trainer.update(step, tiny.sequences(6))
    trainer.finish_step(step, dict)
    if step == 1 or alpha == 0:
      np.testing.assert_array_equal(embedding(trainer.reference), start)
  policy = embedding(trainer.state.model)
  expected = alpha * policy + (1 - alpha) * start
  assert np.abs(policy - start).max() > 1e-4
  np.testing.assert_allclose(embedding(trainer.reference), expected, rtol=1e-6)
  trainer.close()
