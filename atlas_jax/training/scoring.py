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
from atlas_jax.sharding import place
from atlas_jax.training import losses


def score(
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


def filled(batch: PackedBatch) -> Int[Array, ""]:
  """How many micro-batches hold a token; those that hold none come last."""
  return jnp.sum(jnp.any(batch.segment_ids > 0, axis=(1, 2)))


def micro_batch(batch: PackedBatch, i: Int[Array, ""] | int) -> PackedBatch:
  return jax.tree.map(
    lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batch
  )


def _map_filled(score: Callable, batch: PackedBatch):
  """score of each micro-batch, stacked; 0 for those that hold no token."""
  like = jax.eval_shape(score, micro_batch(batch, 0))
  zeros = jax.tree.map(lambda x: jnp.zeros_like(batch.loss_mask, x.dtype), like)

  def put(i, out):
    new = score(micro_batch(batch, i))
    return jax.tree.map(lambda a, b: a.at[i].set(b), out, new)

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

  def score_step(model, batch):
    def one(micro):
      return score(model, architecture, options, micro, temperature, False)

    return _map_filled(one, batch)

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
    def one(micro):
      return score(
        model, architecture, options, micro, temperature, with_entropy
      )

    scores = _map_filled(one, batch)
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


@functools.partial(jax.jit, static_argnames="dtype")
def copy_model(model: decoder.Decoder, dtype: str) -> decoder.Decoder:
  """A copy that outlives the donation of the original: the reference.

  Its matrices are of `dtype`. That of the computation gives the same numbers
  as any wider one, since weights are cast to it where they are used.
  """
  return matrices.cast_matrices(jax.tree.map(jnp.copy, model), dtype)


def _ema(reference, policy, alpha):
  return jax.tree.map(
    lambda r, p: (alpha * p + (1 - alpha) * r).astype(r.dtype),
    reference,
    policy,
  )


# ref <- alpha * policy + (1 - alpha) * ref (TR-DPO 2404.09656); `reference` is
# donated. Call: ema_update(reference, policy, alpha).
ema_update = jax.jit(_ema, donate_argnums=0)
