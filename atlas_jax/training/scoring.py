"""Log-probs of packed batches: by the policy, and by its reference.

Axes: M micro-batches, B rows of the whole batch, T tokens.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atlas_jax.config import GrpoConfig, ModelConfig
from atlas_jax.data.packing import PackedBatch
from atlas_jax.model import decoder, logprobs, matrices
from atlas_jax.sharding import has_mesh, place, spec
from atlas_jax.training import losses


def score(
  model: decoder.Decoder,
  architecture: decoder.DecoderConfig,
  options: ModelConfig,
  batch: PackedBatch,
  temperature: float,
  with_entropy: bool,
):
  """`logprobs.token_logprobs` of a micro-batch: each device's of its own."""

  def of_device(model, batch):
    given = model, architecture, batch, options
    hidden = decoder.forward(*given)
    how = {"temperature": temperature, "with_entropy": with_entropy}
    return logprobs.token_logprobs(*given, hidden, **how)

  if has_mesh():
    weights = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, model)
    of_device = jax.shard_map(
      of_device,
      in_specs=(weights, spec("batch", None)),
      out_specs=spec("batch", "tokens"),
    )
  scores = of_device(model, batch)
  return jax.tree.map(lambda x: place(x, "batch", None), scores)


def filled(batch: PackedBatch) -> Int[Array, ""]:
  """How many micro-batches hold a token; those that hold none come last."""
  return jnp.sum(jnp.any(batch.segment_ids > 0, axis=(1, 2)))


def micro_batch(batch: PackedBatch, i: Int[Array, ""] | int) -> PackedBatch:
  return jax.tree.map(
    lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batch
  )


def _all_scores(model, architecture, options, batch, *how):
  """`score` of each micro-batch, stacked; 0 for those that hold no token."""

  def one(i):
    return score(model, architecture, options, micro_batch(batch, i), *how)

  zeros = jax.tree.map(
    lambda x: jnp.zeros_like(batch.loss_mask, x.dtype), jax.eval_shape(one, 0)
  )

  def put(i, out):
    return jax.tree.map(lambda a, b: a.at[i].set(b), out, one(i))

  return jax.lax.fori_loop(0, filled(batch), put, zeros)


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

  how = temperature, False
  return jax.jit(
    lambda model, batch: _all_scores(model, architecture, options, batch, *how)
  )


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

  @jax.jit
  def prepare_step(model, batch):
    how = temperature, grpo.entropy_share is not None
    logprobs = _all_scores(model, architecture, options, batch, *how)
    if grpo.entropy_share is not None:
      logprobs, entropy = logprobs
      # The threshold is one number of all tokens: every device has them all.
      kept = losses.entropy_mask(
        place(entropy), place(batch.loss_mask), grpo.entropy_share
      )
      kept = place(kept, None, "batch", None)
      batch = batch._replace(advantages=batch.advantages * kept)
    return batch._replace(old_logprobs=logprobs)

  return prepare_step


@functools.partial(jax.jit, static_argnames="dtype")
def copy_model(model: decoder.Decoder, dtype: str) -> decoder.Decoder:
  """A copy that outlives the donation of the original: the reference.

  Its matrices are of `dtype`. That of the computation gives the same numbers
  as any wider one, since weights are cast to it where they are used.
  """
  return matrices.cast_matrices(jax.tree.map(jnp.copy, model), dtype)


@functools.partial(jax.jit, donate_argnums=0)
def ema_update(reference, policy, alpha):
  """ref <- alpha * policy + (1 - alpha) * ref (TR-DPO 2404.09656); donated."""
  return jax.tree.map(
    lambda r, p: (alpha * p + (1 - alpha) * r).astype(r.dtype),
    reference,
    policy,
  )
