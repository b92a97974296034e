"""Adapters: their gradients, what is frozen, what is published of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.config import GrpoConfig, LoraConfig, OptimizerConfig
from atlas_jax.model import decoder, lora
from atlas_jax.training import optimizer, step
from tests.model import by_hand
from tests.model.exported import exported
from tests.training import tiny

OPTIONS = LoraConfig(rank=3, alpha=6.0)
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


def merged(base, adapters):
  """A plain model whose weights hold the updates, in float64 on the host."""
  model = jax.tree.map(lambda x: x, base)
  for name, pair in adapters.pairs().items():
    weight = np.asarray(getattr(base.blocks, name)[...], np.float64)
    a = np.asarray(pair.a[...], np.float64)
    b = np.asarray(pair.b[...], np.float64)
    layers, rank = a.shape[:2]
    update = b.reshape(layers, -1, rank) @ a.reshape(layers, rank, -1)
    new = weight + pair.scale * update.reshape(weight.shape)
    getattr(model.blocks, name)[...] = jnp.asarray(new, jnp.float32)
  return model


def objective(**changes):
  options = dataclasses.replace(tiny.OPTIONS, **changes)
  return step.grpo_objective(
    tiny.ARCHITECTURE,
    options,
    GrpoConfig(beta=0.0),
    temperature=tiny.TEMPERATURE,
    max_completion_tokens=16,
  )


@functools.cache
def program(form):
  """The gradients of adapters in a form, or of a plain model (None)."""
  of_form = objective()._replace(lora_form=form or "merged")
  return jax.jit(
    lambda trained, batch, base=None: step.gradients(
      of_form, trained, batch, base=base
    )
  )


@pytest.mark.parametrize("form", ["merged", "applied"])
@pytest.mark.parametrize(
  "micro_batches", [1, pytest.param(4, marks=pytest.mark.slow)]
)
def test_gradients_are_those_of_the_merged_model(form, micro_batches):
  base, adapters = tiny.model(), tiny.adapters()
  batch = tiny.batch(micro_batches)
  plain, expected = program(None)(merged(base, adapters), batch)
  got, metrics = program(form)(adapters, batch, base)
  loss = [float(m.sums["loss"][0]) for m in (metrics, expected)]
  assert loss[0] == pytest.approx(loss[1], rel=1e-5)
  assert set(got.pairs()) == set(TARGETS)
  for name, pair in got.pairs().items():
    a, b = (getattr(adapters.pairs()[name], k)[...] for k in "ab")
    rank = a.shape[1]
    whole = np.asarray(getattr(plain.blocks, name)[...], np.float64)
    whole = whole.reshape(len(a), b[0].size // rank, -1)
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    a, b = a.reshape(len(a), rank, -1), b.reshape(len(b), -1, rank)
    for mine, wanted in (
      (pair.a, np.einsum("lor,loi->lri", b, whole)),
      (pair.b, np.einsum("loi,lri->lor", whole, a)),
    ):
      mine = np.asarray(mine[...]).reshape(wanted.shape)
      wanted = adapters.pairs()[name].scale * wanted
      assert np.abs(mine - wanted).max() < 2e-5 * np.abs(wanted).max(), name


def test_new_adapters_change_nothing():
  base = tiny.model()
  adapters = jax.jit(lambda: lora.draw(tiny.ARCHITECTURE, OPTIONS, 0))()
  batch = tiny.batch(1)
  _, plain = program(None)(base, batch)
  _, mine = program("merged")(adapters, batch, base)
  assert float(mine.sums["loss"][0]) == float(plain.sums["loss"][0])


@functools.cache
def _trained():
  """(a state after three steps, their losses); readers leave it as it is."""
  tx, schedule = optimizer.make_optimizer(
    OptimizerConfig(learning_rate=1e-2, warmup_steps=0, weight_decay=0.1), 9
  )
  train = step.make_train_step(objective(), tx, schedule, skip_grad_norm=None)
  adapters = jax.jit(lambda: lora.draw(tiny.ARCHITECTURE, OPTIONS, 0))()
  state = step.init_state(lora.join(tiny.model(), adapters), tx)
  losses = []
  for _ in range(3):
    state, metrics = train(state, tiny.batch(1))
    losses.append(float(metrics.sums["loss"][0]))
  return state, losses


def test_adapters_alone_are_trained():
  state, losses = _trained()
  assert losses[-1] < losses[0]
  for mine, first in zip(
    jax.tree.leaves(state.base), jax.tree.leaves(tiny.model()), strict=True
  ):
    np.testing.assert_array_equal(mine, first)
  size = sum(x.size for x in jax.tree.leaves(state.trained))
  moments = sum(x.size for x in jax.tree.leaves(state.opt_state))
  assert 2 * size <= moments <= 2 * size + 4
  assert set(step.as_trees(state)["model"].pairs()) == set(TARGETS)


def test_the_server_gets_the_bits_that_are_trained(monkeypatch):
  """What a product reads in bfloat16 is what export writes."""
  state, _ = _trained()
  read = {}
  product = jnp.einsum

  def watched(equation, x, weight, **how):
    if equation == "btd,fd->btf":
      jax.debug.callback(lambda w: read.setdefault(len(read), w), weight)
    return product(equation, x, weight, **how)

  from atlas_jax.model import adapted

  monkeypatch.setattr(adapted.jnp, "einsum", watched)
  options = dataclasses.replace(tiny.OPTIONS, compute_dtype="bfloat16")
  tokens = jnp.ones((1, 8), jnp.int32)
  batch = by_hand.batch_of(tokens, tokens, 0 * tokens, tokens)
  jax.block_until_ready(
    jax.jit(
      lambda model: decoder.forward(model, tiny.ARCHITECTURE, batch, options)
    )(state.model)
  )
  jax.effects_barrier()
  sent = exported(state.model, tiny.ARCHITECTURE, jnp.bfloat16)
  mine = {np.asarray(w).tobytes() for w in read.values()}
  for layer in range(tiny.ARCHITECTURE.n_layers):
    for part in ("gate", "up"):
      weight = sent[f"model.layers.{layer}.mlp.{part}_proj.weight"]
      assert weight.tobytes() in mine, (layer, part)
