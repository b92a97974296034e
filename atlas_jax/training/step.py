"""The train step: packed micro-batches in, a new TrainState and metrics out.

Batches are `PackedBatch` arrays [M, B/M, T] placed with
`put_batch(..., batch_axis=1)`; call everything inside `jax.set_mesh(mesh)`, or
with no mesh on one device. Normalisers are sums over all M micro-batches, and
so over all devices and hosts, taken before the first one is differentiated:
how a batch is packed, cut or spread never changes its gradient.

Axes: M micro-batches, B rows of the whole batch, T tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from atlas_jax.config import GrpoConfig, ModelConfig
from atlas_jax.data.packing import PackedBatch
from atlas_jax.model import decoder, lora, matrices
from atlas_jax.model.adapted import Form
from atlas_jax.training import losses, offload, optimizer
from atlas_jax.training.losses import Metrics
from atlas_jax.training.scoring import filled, micro_batch, score


class TrainState(struct.PyTreeNode):
  """All that a step changes. Donated to it: the state passed in is gone."""

  step: jax.Array  # train steps done, int32; skipped updates count
  trained: decoder.Decoder | lora.Adapters  # masters, or a copy of them
  opt_state: optax.OptState
  base: decoder.Decoder | None = None  # the frozen weights of adapters

  @property
  def model(self) -> decoder.Decoder:
    """The policy, which holds the arrays of this state."""
    return lora.join(self.base, self.trained)


class Objective(NamedTuple):
  """What is minimised: sum of micro_sum over micro-batches / normalizer.

  micro_sum: (model, PackedBatch [B/M, T]) -> (sum, Metrics).
  normalizer: PackedBatch [M, B/M, T] -> scalar of the whole batch.
  compute_dtype: in which micro_sum uses the weights of matrices.
  """

  micro_sum: Callable
  normalizer: Callable
  compute_dtype: str
  lora_form: Form = "merged"  # in which adapted weights are used


def init_state(
  model: decoder.Decoder, tx: optax.GradientTransformation
) -> TrainState:
  """Step 0 from `model`, whose arrays the state takes over."""
  base, trained = lora.split(model)
  # Under jit the scalars, too, live on every device of the mesh.
  step, opt_state = jax.jit(lambda m: (jnp.zeros((), jnp.int32), tx.init(m)))(
    trained
  )
  if isinstance(opt_state, offload.Masters):
    trained = jax.jit(offload.device_copy)(trained)
  return TrainState(step, trained, opt_state, base)


def abstract_state(
  model: decoder.Decoder, tx: optax.GradientTransformation
) -> TrainState:
  """Shapes, dtypes and shardings of `init_state`; model may be abstract."""
  traced = jax.jit(lambda m: init_state(m, tx)).trace(model)
  # eval_shape, and out_info, leave out which memory an array is in.
  leaves, tree = jax.tree.flatten(traced.out_info)
  return tree.unflatten(map(offload.placed, leaves, traced.jaxpr.out_avals))


def as_trees(state: TrainState) -> dict:
  """The state by parts, for a checkpoint: weights can be read alone.

  With adapters, "model" is those, and "base" the weights that are frozen.
  """
  rest = {"step": state.step, "opt_state": state.opt_state}
  trees = {"model": state.trained, "optimizer": rest}
  return trees if state.base is None else {**trees, "base": state.base}


def from_trees(trees: dict) -> TrainState:
  """The state of `as_trees`; other trees are left alone."""
  return TrainState(
    trained=trees["model"], base=trees.get("base"), **trees["optimizer"]
  )


def sft_objective(
  architecture: decoder.DecoderConfig, options: ModelConfig
) -> Objective:
  """Mean negative log-likelihood of a trained token, in nats."""

  def micro_sum(model, batch):
    logprobs = score(model, architecture, options, batch, 1.0, False)
    total, _ = losses.sft_loss(logprobs, batch.loss_mask)
    return total, Metrics({}, {})

  def normalizer(batch):
    return jnp.maximum(jnp.sum(batch.loss_mask), 1)

  return Objective(micro_sum, normalizer, options.compute_dtype, "applied")


def grpo_objective(
  architecture: decoder.DecoderConfig,
  options: ModelConfig,
  grpo: GrpoConfig,
  *,
  temperature: float,
  max_completion_tokens: int,
) -> Objective:
  """The GRPO loss; see `losses.grpo_loss`.

  With one epoch the old policy is the policy itself; with more the batch's
  old_logprobs are read, see `make_prepare_step`. Its ref_logprobs are read
  only when beta is above 0.

  Args:
    architecture: of the model.
    options: how to compute it.
    grpo: the loss and its numbers.
    temperature: the teacher's sampling temperature.
    max_completion_tokens: the longest completion; dr_grpo divides by it.
  """

  def micro_sum(model, batch):
    policy, entropy = score(
      model, architecture, options, batch, temperature, True
    )
    on_policy = grpo.epochs == 1
    old = jax.lax.stop_gradient(policy) if on_policy else batch.old_logprobs
    return losses.grpo_loss(
      policy=policy,
      old=old,
      behavior=batch.behavior_logprobs,
      reference=batch.ref_logprobs if grpo.beta > 0 else None,
      advantages=batch.advantages,
      mask=batch.loss_mask,
      sequence_weights=batch.sequence_weights,
      sequence_ids=batch.sequence_ids,
      options=grpo,
      entropy=jax.lax.stop_gradient(entropy),
    )

  def normalizer(batch):
    return losses.grpo_normalizer(
      batch.loss_mask,
      batch.sequence_weights,
      grpo.loss_type,
      max_completion_tokens,
    )

  return Objective(micro_sum, normalizer, options.compute_dtype)


def gradients(
  objective: Objective,
  trained: decoder.Decoder | lora.Adapters,
  batch: PackedBatch,
  grad_dtype: str = "float32",
  base: decoder.Decoder | None = None,
) -> tuple[decoder.Decoder | lora.Adapters, Metrics]:
  """Gradient of the objective on [M, B/M, T], and its metrics.

  Adapters are differentiated beside their base, which is left alone.
  Micro-batches are differentiated one after the other and added up in
  grad_dtype; activation memory is that of one. Empty ones at the end cost
  nothing, so one program serves batches of all sizes. With M = 1 the gradient
  is in the dtype in which it was computed: nothing is added, and no second
  tree of its size exists.
  """
  normalizer = objective.normalizer(batch)
  # Cast once and not at each use; the gradient of the copy is then in its
  # dtype, in which it is computed anyway.
  weights = matrices.cast_matrices(trained, objective.compute_dtype)

  def loss(weights, micro):
    model = lora.join(base, weights, objective.lora_form)
    total, metrics = objective.micro_sum(model, micro)
    return total / normalizer, (total, metrics)

  differentiate = jax.grad(loss, has_aux=True)
  if batch.tokens.shape[0] == 1:
    grads, (total, metrics) = differentiate(weights, micro_batch(batch, 0))
  else:

    def add(i, carry):
      # The barrier: a TPU's compiler fails on moving sums out of this loop.
      micro = micro_batch(batch, i)
      new = jax.lax.optimization_barrier(differentiate(weights, micro))
      grads, (total, metrics) = jax.tree.map(
        lambda a, b: a + b.astype(a.dtype), carry, new
      )
      maxima = jax.tree.map(jnp.maximum, carry[1][1].maxima, new[1][1].maxima)
      return grads, (total, metrics._replace(maxima=maxima))

    like = jax.eval_shape(differentiate, weights, micro_batch(batch, 0))
    zeros = jax.tree.map(lambda w: jnp.zeros_like(w, grad_dtype), weights)
    empty, nothing = jax.tree.map(jnp.zeros_like, like[1])
    lowest = jax.tree.map(lambda x: x - jnp.inf, nothing.maxima)
    start = zeros, (empty, nothing._replace(maxima=lowest))
    grads, (total, metrics) = jax.lax.fori_loop(0, filled(batch), add, start)
  metrics.sums["loss"] = (total, normalizer)
  metrics.sums["trained_tokens"] = (jnp.sum(batch.loss_mask), jnp.float32(1))
  return grads, metrics


def make_train_step(
  objective: Objective,
  tx: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  skip_grad_norm: float | None,
  grad_dtype: str = "float32",
) -> Callable[[TrainState, PackedBatch], tuple[TrainState, Metrics]]:
  """A jitted step. The TrainState passed to it is donated.

  A gradient with a NaN or an infinity, or whose norm is above skip_grad_norm
  (None: no bound), leaves weights and optimizer as they are and is counted in
  the metric update_skipped.

  Metrics of every objective: loss, trained_tokens (of the batch), grad_norm
  (global L2, before the clip), learning_rate, update_skipped (0 or 1).
  """

  def train_step(state: TrainState, batch: PackedBatch):
    grads, metrics = gradients(
      objective, state.trained, batch, grad_dtype, state.base
    )
    grad_norm = optax.tree.norm(optimizer.cast(grads, "float32"))
    good = jnp.isfinite(grad_norm)
    if skip_grad_norm is not None:
      good &= grad_norm <= skip_grad_norm
    rate = schedule(optimizer.updates_done(state.opt_state))
    trained, opt_state = offload.update(
      tx, grads, state.opt_state, state.trained, grad_norm, good
    )
    one = jnp.float32(1)
    metrics.sums["grad_norm"] = (grad_norm, one)
    metrics.sums["learning_rate"] = (jnp.float32(rate), one)
    metrics.sums["update_skipped"] = (1 - good.astype(jnp.float32), one)
    return TrainState(state.step + 1, trained, opt_state, state.base), metrics

  return jax.jit(train_step, donate_argnums=0)
