"""Log-probs of the tokens of packed rows, without logits for all of them.

Axes: B rows, T tokens, D model, V vocabulary (of this device), C
tokens of a chunk, N tokens in whole chunks, E the part of D that a device
holds, W rows of a slice of the head.

Each device picks the tokens it holds whose log-probs are wanted and takes them
C at a time: [V, C] logits in float32, log-softmax, the label's entry. The
backward pass computes each chunk again. Both stop after the last chunk that
holds a wanted token, so a token that nobody asks for costs nothing.
A head that is cut over the mesh is gathered in slices of W rows, the sums over
the vocabulary are carried from one to the next (online softmax), and the
gradient of a slice is cut again before the next one: neither exists whole.
With a vocabulary cut over the mesh, a device holds a part of it, and the sums
are added up across devices at the end.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atlas_jax.config import ModelConfig
from atlas_jax.data.packing import PackedBatch
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.model.attention import product
from atlas_jax.model.decoder import Decoder
from atlas_jax.sharding import (
  add_up,
  add_up_and_cut,
  axes_of,
  axis_size,
  gather,
  own_part,
  part_index,
  varying,
)

# A logit below all others; finite, since -inf - -inf is NaN.
_LOWEST = -1e30
# Numbers of a head cut along D that a device gathers at one time.
_SLICE = 1 << 25


def token_logprobs(
  model: Decoder,
  config: DecoderConfig,
  batch: PackedBatch,
  options: ModelConfig,
  hidden: Float[Array, "B T D"],
  *,
  temperature: float,
  with_entropy: bool = False,
):
  """log p(token t | the tokens before it in its sequence), aligned to tokens.

  Of one device, as `forward`: of its rows the T tokens of S that it holds.

  Args:
    model: parameters; the head is read in the dtype of `hidden`, products and
      everything after are float32.
    config: what `model` was built from.
    batch: packed rows [B, S]; those of loss_mask above 0 are computed.
    options: its logprob_chunk is how many tokens' logits exist at one time.
    hidden: from `forward`.
    temperature: logits are divided by it.
    with_entropy: also return the entropy (nats) of each distribution.

  Returns:
    float32 [B, T]: 0 where it is not wanted, where the token before is of
    another sequence, at padding and in shared prompts. With `with_entropy` a
    pair (logprobs, entropy).
  """
  ids = batch.sequence_ids  # 0 is padding, or a prompt that sequences share
  needed = (ids == _shift(ids, 1)) & (ids != 0) & (batch.loss_mask > 0)
  # hidden[t] predicts token t + 1: score the next token, then shift back.
  needed = own_part(_shift(needed, -1), "tokens", 1)
  labels = own_part(_shift(batch.tokens, -1), "tokens", 1)
  head = (model.embedding if config.tied else model.head)[...]
  b, t, d = hidden.shape
  size = min(options.logprob_chunk, b * t)
  room = -(-b * t // size) * size
  # Needed tokens first; places beyond b * t stand for no token.
  order = jnp.argsort(~needed.reshape(-1), stable=True)
  order = jnp.concatenate([order, jnp.arange(b * t, room)])
  chunks = -(-jnp.sum(needed) // size)

  def first_needed(x):
    return varying(x.at[order].get(mode="fill", fill_value=0))

  scores = _scores(
    (size, with_entropy, _slice_rows(head.shape[0], d)),
    varying(head.astype(hidden.dtype)),
    first_needed(hidden.reshape(b * t, d)),
    first_needed(labels.reshape(-1)),
    jnp.asarray(temperature, jnp.float32),
    chunks,
  )
  scores = (s.at[order].set(s)[: b * t].reshape(b, t) for s in scores)
  scores = tuple(_next(jnp.where(needed, s, 0.0)) for s in scores)
  return scores if with_entropy else scores[0]


def _shift(x: Array, by: int) -> Array:
  """x[:, t - by], and 0 beyond the row's ends (by is 1 or -1)."""
  if by == 1:
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)))
  return jnp.pad(x[:, 1:], ((0, 0), (0, 1)))


def _next(x: Float[Array, "B T"]) -> Float[Array, "B T"]:
  """x of the token before, also where another device holds that."""
  x = jax.lax.all_gather(x, axes_of("tokens"), axis=1, tiled=True)
  return own_part(_shift(x, 1), "tokens", 1)


def _slice_rows(vocab: int, width: int) -> int:
  """Rows of the head that a device has whole at one time."""
  if axis_size("embed") == 1:
    return vocab  # it has them anyway
  slices = -(-vocab * width // _SLICE)
  return -(-vocab // slices)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scores(options, head, hidden, labels, temperature, chunks):
  """Log-probs (and entropies) of the first `chunks` chunks of N tokens.

  options: C, whether entropies are asked for, and W.

  Written with its own gradient because a loop whose length is data has none,
  so that the gradient of a slice of the head is one float32 sum, not one a
  chunk, and so that no device ever has the whole head or its gradient.
  """
  return _scores_forward(options, head, hidden, labels, temperature, chunks)[0]


def _at_chunk(arrays, i: Int[Array, ""], size: int):
  return [jax.lax.dynamic_slice_in_dim(x, i * size, size) for x in arrays]


def _put(whole: Array, part: Array, start: Int[Array, ""]) -> Array:
  return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=0)


def _slice(head: Float[Array, "V E"], n: Int[Array, ""], rows: int):
  """(slice n of the head, whole along D; its ids [W, 1]; which are new, there).

  The last slice begins earlier where V does not divide: some rows come again.
  """
  start = jnp.minimum(n * rows, head.shape[0] - rows)
  part = jax.lax.dynamic_slice_in_dim(head, start, rows)
  at = start + jnp.arange(rows)[:, None]
  ids = at + part_index("vocab") * head.shape[0]
  return gather(part, "embed", 1), ids, at >= n * rows


def _below(top, to, total, weighted):
  """(sum e^x, sum x e^x) of x = logits - top, for the higher top `to`."""
  shift = top - to
  shrink = jnp.exp(shift)
  return shrink * total, shrink * (weighted + shift * total)


def _scores_forward(options, head, hidden, labels, temperature, chunks):
  size, with_entropy, rows = options

  def add_slice(n, seen):
    part, ids, new = _slice(head, n, rows)

    def one(i, seen):
      h, label, old_top, total, weighted, at_label = _at_chunk(
        (hidden, labels, *seen), i, size
      )
      # [V, C]: sums over the outer axis run along vectors, which takes a CPU
      # a third of the time of sums over the inner one.
      x = product("vd,cd->vc", part, h) / temperature
      if head.shape[0] % rows:
        x = jnp.where(new, x, _LOWEST)
      at_label += jnp.sum(jnp.where(new & (ids == label), x, 0.0), axis=0)
      top = jnp.maximum(old_top, jnp.max(x, axis=0))
      total, weighted = _below(old_top, top, total, weighted)
      x = x - top
      e = jnp.exp(x)
      total += jnp.sum(e, axis=0)
      if with_entropy:
        weighted += jnp.sum(e * x, axis=0)
      both = top, total, weighted, at_label
      return tuple(
        _put(s, b, i * size) for s, b in zip(seen, both, strict=True)
      )

    return jax.lax.fori_loop(0, chunks, one, seen)

  # Of each token's logits, over the part of the vocabulary seen so far: the
  # highest, sum e^x and sum x e^x of x = logits - top (a mean of the logits
  # themselves would lose the entropy, a small difference of large numbers),
  # the label's logit (0 while it was not seen).
  zeros = jnp.zeros_like(labels, jnp.float32)
  own_top, total, weighted, at_label = jax.lax.fori_loop(
    *(0, -(-head.shape[0] // rows), add_slice),
    (zeros + _LOWEST, zeros, zeros, zeros),
  )
  top = jax.lax.pmax(own_top, axes_of("vocab"))
  sums = _below(own_top, top, total, weighted)
  total, weighted = (add_up(x, "vocab") for x in sums)
  log_total = jnp.log(total)
  scores = [add_up(at_label, "vocab") - top - log_total]
  if with_entropy:
    scores.append(log_total - weighted / total)
  log_z = top + log_total
  saved = (head, hidden, labels, temperature, chunks, log_z, scores)
  return tuple(scores), saved


def _scores_backward(options, saved, cotangents):
  head, hidden, labels, temperature, chunks, log_z, scores = saved
  size, with_entropy, rows = options
  tokens = (hidden, labels, log_z, *cotangents, *scores[1:])

  def add_slice(n, grads):
    d_head, d_hidden = grads
    part, ids, new = _slice(head, n, rows)

    def one(i, grads):
      d_part, d_hidden = grads
      h, label, log_z, *rest = _at_chunk(tokens, i, size)
      log_p = product("vd,cd->vc", part, h) / temperature - log_z
      p = jnp.exp(log_p)
      # d log p[label] = 1[label] - p;  d entropy = -p (log p + entropy).
      dx = ((ids == label) - p) * rest[0]
      if with_entropy:
        dx -= p * (log_p + rest[2]) * rest[1]
      if head.shape[0] % rows:
        dx = jnp.where(new, dx, 0.0)
      dx = (dx / temperature).astype(head.dtype)
      (own,) = _at_chunk((d_hidden,), i, size)
      own += product("vc,vd->cd", dx, part)
      return (
        d_part + product("vc,cd->vd", dx, h),
        _put(d_hidden, own, i * size),
      )

    d_part = jnp.zeros_like(part, jnp.float32)
    d_part, d_hidden = jax.lax.fori_loop(0, chunks, one, (d_part, d_hidden))
    d_part = add_up_and_cut(d_part.astype(head.dtype), "embed", 1)
    start = jnp.minimum(n * rows, head.shape[0] - rows)
    # Rows that come again add 0.
    d_part += jax.lax.dynamic_slice_in_dim(d_head, start, rows)
    return _put(d_head, d_part, start), d_hidden

  grads = jnp.zeros_like(head), jnp.zeros_like(hidden, jnp.float32)
  slices = -(-head.shape[0] // rows)
  d_head, d_hidden = jax.lax.fori_loop(0, slices, add_slice, grads)
  return d_head, d_hidden.astype(hidden.dtype), None, None, None


_scores.defvjp(_scores_forward, _scores_backward)
