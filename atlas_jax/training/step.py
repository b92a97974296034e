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
from jaxtyping import Array, Float

from atlas_jax.config import GrpoConfig, ModelConfig
from atlas_jax.data.packing import PackedBatch
from atlas_jax.model import decoder, logprobs
from atlas_jax.sharding import place
from atlas_jax.training import losses, optimizer
from atlas_jax.training.losses import Metrics


class TrainState(struct.PyTreeNode):
  """All that a step changes. Donated to it: the state passed in is gone."""

  step: jax.Array  # train steps done, int32; skipped updates count
  model: decoder.Decoder  # master weights
  opt_state: optax.OptState


class Objective(NamedTuple):
  """What is minimised: sum of micro_sum over micro-batches / normalizer.

  micro_sum: (model, PackedBatch [B/M, T]) -> (sum, Metrics).
  normalizer: PackedBatch [M, B/M, T] -> scalar of the whole batch.
  """

  micro_sum: Callable
  normalizer: Callable


def init_state(
  model: decoder.Decoder, tx: optax.GradientTransformation
) -> TrainState:
  """Step 0 from `model`, whose arrays the state takes over."""
  # Under jit the scalars, too, live on every device of the mesh.
  step, opt_state = jax.jit(lambda m: (jnp.zeros((), jnp.int32), tx.init(m)))(
    model
  )
  return TrainState(step=step, model=model, opt_state=opt_state)


def abstract_state(
  model: decoder.Decoder, tx: optax.GradientTransformation
) -> TrainState:
  """Shapes, dtypes and shardings of `init_state`; model may be abstract."""
  return jax.eval_shape(lambda m: init_state(m, tx), model)


def as_trees(state: TrainState) -> dict:
  """The state by parts, for a checkpoint: weights can be read alone."""
  rest = {"step": state.step, "opt_state": state.opt_state}
  return {"model": state.model, "optimizer": rest}


def from_trees(trees: dict) -> TrainState:
  """The state of `as_trees`; other trees are left alone."""
  return TrainState(model=trees["model"], **trees["optimizer"])


def _score(
  model: decoder.Decoder,
  architecture: decoder.DecoderConfig,
  options: ModelConfig,
  batch: PackedBatch,
  temperature: float,
  with_entropy: bool,
):
  hidden = decoder.forward(
    model,
    architecture,
    batch.tokens,
    batch.segment_ids,
    batch.sequence_ids,
    batch.positions,
    compute_dtype=jnp.dtype(options.compute_dtype),
    remat=options.remat,
  )
  return logprobs.token_logprobs(
    model,
    architecture,
    hidden,
    batch.tokens,
    batch.sequence_ids,
    batch.loss_mask,
    temperature=temperature,
    chunk=options.logprob_chunk,
    with_entropy=with_entropy,
  )


def sft_objective(
  architecture: decoder.DecoderConfig, options: ModelConfig
) -> Objective:
  """Mean negative log-likelihood of a trained token, in nats."""

  def micro_sum(model, batch):
    logprobs = _score(model, architecture, options, batch, 1.0, False)
    total, _ = losses.sft_loss(logprobs, batch.loss_mask)
    return total, Metrics({}, {})

  def normalizer(batch):
    return jnp.maximum(jnp.sum(batch.loss_mask), 1)

  return Objective(micro_sum, normalizer)


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
    policy, entropy = _score(
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

  return Objective(micro_sum, normalizer)


def gradients(
  objective: Objective, model: decoder.Decoder, batch: PackedBatch
) -> tuple[decoder.Decoder, Metrics]:
  """Gradient of the objective on [M, B/M, T], float32, and its metrics.

  Micro-batches are differentiated one after the other and added up; activation
  memory is that of one.
  """
  normalizer = objective.normalizer(batch)

  def loss(model, micro):
    total, metrics = objective.micro_sum(model, micro)
    return total / normalizer, (total, metrics)

  def add(grads, micro):
    micro_grads, aux = jax.grad(loss, has_aux=True)(model, micro)
    grads = jax.tree.map(
      lambda a, g: a + g.astype(jnp.float32), grads, micro_grads
    )
    return grads, aux

  zeros = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), model)
  grads, (totals, metrics) = jax.lax.scan(add, zeros, batch)
  metrics = Metrics(
    jax.tree.map(jnp.sum, metrics.sums),
    jax.tree.map(jnp.max, metrics.maxima),
  )
  metrics.sums["loss"] = (jnp.sum(totals), normalizer)
  metrics.sums["trained_tokens"] = (jnp.sum(batch.loss_mask), jnp.float32(1))
  return grads, metrics


def make_train_step(
  objective: Objective,
  tx: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  skip_grad_norm: float | None,
) -> Callable[[TrainState, PackedBatch], tuple[TrainState, Metrics]]:
  """A jitted step. The TrainState passed to it is donated.

  A gradient with a NaN or an infinity, or whose norm is above skip_grad_norm
  (None: no bound), leaves weights and optimizer as they are and is counted in
  the metric update_skipped.

  Metrics of every objective: loss, trained_tokens (of the batch), grad_norm
  (global L2, before the clip), learning_rate, update_skipped (0 or 1).
  """

  def train_step(state: TrainState, batch: PackedBatch):
    grads, metrics = gradients(objective, state.model, batch)
    grad_norm = optax.tree.norm(grads)
    good = jnp.isfinite(grad_norm)
    if skip_grad_norm is not None:
      good &= grad_norm <= skip_grad_norm
    rate = schedule(optimizer.updates_done(state.opt_state))
    updates, opt_state = tx.update(grads, state.opt_state, state.model)
    model = optax.apply_updates(state.model, updates)
    model, opt_state = jax.tree.map(
      lambda new, old: jnp.where(good, new, old),
      (model, opt_state),
      (state.model, state.opt_state),
    )
    one = jnp.float32(1)
    metrics.sums["grad_norm"] = (grad_norm, one)
    metrics.sums["learning_rate"] = (jnp.float32(rate), one)
    metrics.sums["update_skipped"] = (1 - good.astype(jnp.float32), one)
    return TrainState(state.step + 1, model, opt_state), metrics

  return jax.jit(train_step, donate_argnums=0)


def make_score_step(
  architecture: decoder.DecoderConfig,
  options: ModelConfig,
  *,
  temperature: float,
) -> Callable[[decoder.Decoder, PackedBatch], Float[Array, "M B T"]]:
  """A jitted (model, batch [M, B/M, T]) -> log-probs of trained tokens.

  float32, 0 at every other token.

  For the reference policy:
  batch._replace(ref_logprobs=score_step(reference, batch)).
  """

  def score_step(model, batch):
    def score(micro):
      return _score(model, architecture, options, micro, temperature, False)

    return jax.lax.map(score, batch)

  return jax.jit(score_step)


def make_prepare_step(
  architecture: decoder.DecoderConfig,
  options: ModelConfig,
  grpo: GrpoConfig,
  *,
  temperature: float,
) -> Callable[[decoder.Decoder, PackedBatch], PackedBatch]:
  """(model, batch [M, B/M, T]) -> the batch that its updates read.

  To be called once a batch, with the parameters that its first update starts
  from. One scoring pass gives
    old_logprobs  with more than one epoch
    advantages    with an entropy_share: 0 on the tokens below it. Every
                  loss is A times something, so this is TRL's entropy mask;
                  the threshold is that of the whole batch, however it is cut
                  (TRL: of each micro-batch), and holds for all its epochs.
  With neither nothing is computed.
  """
  if grpo.epochs == 1 and grpo.entropy_share is None:
    return lambda model, batch: batch
  with_entropy = grpo.entropy_share is not None

  @jax.jit
  def prepare_step(model, batch):
    def score(micro):
      return _score(
        model, architecture, options, micro, temperature, with_entropy
      )

    scores = jax.lax.map(score, batch)
    logprobs = scores
    if with_entropy:
      logprobs, entropy = scores
      # The threshold is one number of all tokens: every device has them all.
      kept = losses.entropy_mask(
        place(entropy), place(batch.loss_mask), grpo.entropy_share
      )
      kept = place(kept, None, "batch", None)
      batch = batch._replace(advantages=batch.advantages * kept)
    return batch._replace(old_logprobs=logprobs)

  return prepare_step


@jax.jit
def copy_model(model: decoder.Decoder) -> decoder.Decoder:
  """A copy that outlives the donation of the original: the reference."""
  return jax.tree.map(jnp.copy, model)


def _ema(reference, policy, alpha):
  return jax.tree.map(
    lambda r, p: (alpha * p + (1 - alpha) * r).astype(r.dtype),
    reference,
    policy,
  )


# ref <- alpha * policy + (1 - alpha) * ref (TR-DPO 2404.09656); `reference` is
# donated. Call: ema_update(reference, policy, alpha).
ema_update = jax.jit(_ema, donate_argnums=0)
