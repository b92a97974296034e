"""Moments and masters on the host: the same updates, and where they lie."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import sharding
from atlas_jax.checkpoint import Checkpoints
from atlas_jax.config import MeshConfig, OptimizerConfig
from atlas_jax.sharding import make_mesh, put_batch
from atlas_jax.training import offload as offload_lib
from atlas_jax.training import optimizer, step
from tests.training import tiny

OPTIONS = OptimizerConfig(
  learning_rate=1e-2, warmup_steps=1, weight_decay=0.1, clip_norm=0.5
)
SKIP_GRAD_NORM = 1e3
PLACES = pytest.mark.parametrize(
  "place", [("moments", "float32"), ("masters", "bfloat16")]
)


@pytest.fixture(autouse=True)
def _mesh():
  with jax.set_mesh(make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])):
    yield


def batch(seed, scale=1.0):
  """A gradient grows with the advantages."""
  rows = tiny.batch(seed=seed)
  rows = rows._replace(advantages=rows.advantages * np.float32(scale))
  return put_batch(rows, make_mesh(MeshConfig(fsdp=1), jax.devices()[:1]), 1)


@functools.cache  # all tests of a place share its program
def trainer(offload, compute_dtype):
  tx, schedule = optimizer.make_optimizer(OPTIONS, 9, offload)
  objective = step.grpo_objective(
    tiny.ARCHITECTURE,
    dataclasses.replace(tiny.OPTIONS, compute_dtype=compute_dtype),
    tiny.GRPO,
    temperature=tiny.TEMPERATURE,
    max_completion_tokens=16,
  )
  return tx, step.make_train_step(
    objective, tx, schedule, skip_grad_norm=SKIP_GRAD_NORM
  )


def kinds(tree):
  return {x.sharding.memory_kind for x in jax.tree.leaves(tree) if x.ndim}


def leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


def test_updates_are_those_without_it():
  states = []
  for offload in ("none", "moments"):
    tx, train = trainer(offload, "float32")
    state, norms = step.init_state(tiny.model(), tx), []
    for seed in range(3):
      state, metrics = train(state, batch(seed))
      norms.append(float(metrics.sums["grad_norm"][0]))
    assert max(norms) > OPTIONS.clip_norm  # the clip is at work
    states.append(state)
  plain, offloaded = states
  assert kinds(offloaded.opt_state) == {"pinned_host"}
  assert kinds(offloaded.trained) == kinds(plain.opt_state) == {"device"}
  for a, b in zip(leaves(plain), leaves(offloaded), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6)


def test_masters_are_updated_as_weights_are():
  states = []
  for offload in ("none", "masters"):
    tx, train = trainer(offload, "bfloat16")
    state = step.init_state(tiny.model(), tx)
    for seed in range(3):
      state, _ = train(state, batch(seed))
    states.append(state)
  plain, offloaded = states
  assert kinds(offloaded.opt_state) == {"pinned_host"}
  assert kinds(offloaded.trained) == {"device"}
  inner, masters = offloaded.opt_state
  assert optimizer.updates_done(offloaded.opt_state) == 3
  for a, b in zip(
    leaves((plain.opt_state, plain.trained)),
    leaves((inner, masters)),
    strict=True,
  ):
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6)
  # What is read, published and saved is the masters' copy, to the bit.
  assert masters.embedding[...].dtype == jnp.float32
  assert offloaded.trained.embedding[...].dtype == jnp.bfloat16
  for a, b in zip(
    leaves(offload_lib.device_copy(masters)),
    leaves(offloaded.trained),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


@PLACES
def test_an_update_that_is_left_out_changes_nothing(place):
  tx, train = trainer(*place)
  state, metrics = train(step.init_state(tiny.model(), tx), batch(0))
  assert float(metrics.sums["update_skipped"][0]) == 0
  before = leaves((state.trained, state.opt_state))
  state, metrics = train(state, batch(1, scale=1e6))
  assert float(metrics.sums["grad_norm"][0]) > SKIP_GRAD_NORM
  assert float(metrics.sums["update_skipped"][0]) == 1
  for a, b in zip(
    before, leaves((state.trained, state.opt_state)), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@PLACES
def test_a_checkpoint_brings_them_back_to_the_host(tmp_path, place):
  tx, train = trainer(*place)
  state, _ = train(step.init_state(tiny.model(), tx), batch(0))
  with Checkpoints(tmp_path / "a") as saved:
    saved.save(1, step.as_trees(state), {})
  model = tiny.model()
  like = step.abstract_state(jax.eval_shape(lambda: model), tx)
  assert kinds(sharding.abstract(like).opt_state) == {"pinned_host"}
  with Checkpoints(tmp_path / "a") as saved:
    _, trees, _ = saved.restore(step.as_trees(like))
  again = step.from_trees(trees)
  assert kinds(again.opt_state) == {"pinned_host"}
  whole, _ = train(state, batch(1))
  resumed, _ = train(again, batch(1))
  for a, b in zip(leaves(whole), leaves(resumed), strict=True):
    np.testing.assert_array_equal(a, b)
  assert jnp.isfinite(whole.trained.embedding[...]).all()
