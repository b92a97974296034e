"""Log-probs of the tokens of packed rows, without logits for all of them.

Axes: B rows, T tokens, D model, V vocabulary, C tokens of a chunk.

Each device gathers the tokens it holds whose log-probs are wanted and takes
them C at a time: [V, C] logits in float32, log-softmax, the label's entry. The
backward pass computes each chunk again. Both stop after the last chunk that
holds a wanted token, so a token that nobody asks for costs nothing.
With a vocabulary cut over the mesh, a device holds [V/tensor, C] and the sums
over the vocabulary are added up across devices.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.model.attention import matmul_precision
from atlas_jax.model.decoder import Decoder
from atlas_jax.sharding import RULES, gather, layout, place, spec


def token_logprobs(
  model: Decoder,
  config: DecoderConfig,
  hidden: Float[Array, "B T D"],
  tokens: Int[Array, "B T"],
  sequence_ids: Int[Array, "B T"],
  wanted: Float[Array, "B T"],
  *,
  temperature: float,
  chunk: int,
  with_entropy: bool = False,
):
  """log p(token t | the tokens before it in its sequence), aligned to tokens.

  Args:
    model: parameters; the head is read in the dtype of `hidden`, products and
      everything after are float32.
    config: what `model` was built from.
    hidden: from `forward`.
    tokens: packed rows.
    sequence_ids: 0 is padding, or a prompt that sequences share.
    wanted: above 0 at the tokens to compute, such as a loss mask.
    temperature: logits are divided by it.
    chunk: tokens whose logits exist at one time on a device.
    with_entropy: also return the entropy (nats) of each distribution.

  Returns:
    float32 [B, T]: 0 where it is not wanted, where the token before is of
    another sequence, at padding and in shared prompts. With `with_entropy` a
    pair (logprobs, entropy).
  """
  tokens, sequence_ids, wanted = (
    place(x, "batch", None) for x in (tokens, sequence_ids, wanted)
  )
  predicted = (sequence_ids == _shift(sequence_ids, 1)) & (sequence_ids != 0)
  # hidden[t] predicts token t + 1: score the next token, then shift back.
  needed = place(_shift(predicted & (wanted > 0), -1), "batch", "tokens")
  labels = place(_shift(tokens, -1), "batch", "tokens")
  head = _head(model, config).astype(hidden.dtype)
  temperature = jnp.asarray(temperature, jnp.float32)
  local = functools.partial(_local, chunk=chunk, with_entropy=with_entropy)
  if jax.sharding.get_abstract_mesh().empty:
    scores = local(head, hidden, labels, needed, temperature, vocab_axis=None)
  else:
    rows = spec("batch", "tokens")

    def sharded(head, *args):
      head = gather(head, "embed", 1)
      return local(head, *args, vocab_axis="tensor")

    scores = jax.shard_map(
      sharded,
      in_specs=(spec("vocab", "embed"), P(*rows, None), rows, rows, P()),
      out_specs=(rows, rows) if with_entropy else (rows,),
    )(head, hidden, labels, needed, temperature)
  scores = tuple(_shift(place(s, "batch", None), 1) for s in scores)
  return scores if with_entropy else scores[0]


def logits(
  model: Decoder, config: DecoderConfig, hidden: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
  """All logits in float32: small shapes only."""
  head = place(_head(model, config).astype(hidden.dtype), "vocab", None)
  return jnp.einsum(
    "btd,vd->btv",
    hidden,
    head,
    precision=matmul_precision(hidden.dtype),
    preferred_element_type=jnp.float32,
    out_sharding=layout("batch", "tokens", "vocab"),
  )


def _head(model: Decoder, config: DecoderConfig) -> Float[Array, "V D"]:
  return model.embedding[...] if config.tied else model.head[...]


def _shift(x: Array, by: int) -> Array:
  """x[:, t - by], and 0 beyond the row's ends (by is 1 or -1)."""
  if by == 1:
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)))
  return jnp.pad(x[:, 1:], ((0, 0), (0, 1)))


def _local(
  head: Float[Array, "V D"],
  hidden: Float[Array, "B T D"],
  labels: Int[Array, "B T"],
  needed: Bool[Array, "B T"],
  temperature: Float[Array, ""],
  *,
  chunk: int,
  with_entropy: bool,
  vocab_axis: str | None,
) -> tuple[Float[Array, "B T"], ...]:
  """(log-probs of labels,) or (log-probs, entropies) of one device's tokens.

  0 where not needed.
  """
  b, t, d = hidden.shape
  size = min(chunk, b * t)
  room = -(-b * t // size) * size
  # Needed tokens first; places beyond b * t stand for no token.
  order = jnp.argsort(~needed.reshape(-1), stable=True)
  order = jnp.concatenate([order, jnp.arange(b * t, room)])
  chunks = -(-jnp.sum(needed) // size)
  if vocab_axis is not None:
    # The same number on all devices: sums over the vocabulary meet.
    chunks = jax.lax.pmax(chunks, (*RULES["batch"], *RULES["tokens"]))

  def gather(x):
    return x.at[order].get(mode="fill", fill_value=0)

  options = _Options(size, with_entropy, vocab_axis)
  scores = _scores(
    options,
    head,
    gather(hidden.reshape(b * t, d)),
    gather(labels.reshape(-1)),
    temperature,
    chunks,
  )
  scores = (s.at[order].set(s)[: b * t] for s in scores)
  return tuple(jnp.where(needed, s.reshape(b, t), 0.0) for s in scores)


class _Options(NamedTuple):
  size: int  # C, tokens of a chunk
  with_entropy: bool
  vocab_axis: str | None  # the mesh axis that cuts the vocabulary

  def total(self, x: Array) -> Array:
    return x if self.vocab_axis is None else jax.lax.psum(x, self.vocab_axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scores(options, head, hidden, labels, temperature, chunks):
  """Log-probs (and entropies) of the first `chunks` chunks of N tokens.

  Written with its own gradient because a loop whose length is data has none,
  and so that the gradient of the head is one float32 sum, not one a chunk.
  """
  return _scores_forward(options, head, hidden, labels, temperature, chunks)[0]


def _slices(arrays, i: Int[Array, ""], size: int):
  return [jax.lax.dynamic_slice_in_dim(x, i * size, size) for x in arrays]


def _put(whole: Array, part: Array, i: Int[Array, ""]) -> Array:
  return jax.lax.dynamic_update_slice_in_dim(
    whole, part, i * part.shape[0], axis=0
  )


def _product(equation: str, a: Array, b: Array) -> Float[Array, "..."]:
  return jnp.einsum(
    equation,
    a,
    b,
    precision=matmul_precision(b.dtype),
    preferred_element_type=jnp.float32,
  )


def _at_labels(options, labels, logits: Float[Array, "V C"]):
  """bool[V, C]: where each token's label stands in this slice of V."""
  ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
  if options.vocab_axis is not None:
    ids += jax.lax.axis_index(options.vocab_axis) * logits.shape[0]
  return ids == labels


def _scores_forward(options, head, hidden, labels, temperature, chunks):
  def one(i, out):
    h, label = _slices((hidden, labels), i, options.size)
    # [V, C]: sums over the outer axis run along vectors, which takes a CPU a
    # third of the time of sums over the inner one.
    x = _product("vd,cd->vc", head, h) / temperature
    top = jnp.max(x, axis=0)
    if options.vocab_axis is not None:
      top = jax.lax.pmax(top, options.vocab_axis)
    x = x - top
    z = options.total(jnp.sum(jnp.exp(x), axis=0))
    log_z = jnp.log(z)
    at_label = jnp.where(_at_labels(options, label, x), x, 0.0)
    parts = [log_z + top, options.total(jnp.sum(at_label, axis=0)) - log_z]
    if options.with_entropy:
      mean = options.total(jnp.sum(jnp.exp(x) * x, axis=0)) / z
      parts.append(log_z - mean)
    return [_put(o, part, i) for o, part in zip(out, parts, strict=True)]

  zeros = jnp.zeros_like(labels, jnp.float32)
  out = [zeros] * (3 if options.with_entropy else 2)
  log_z, *scores = jax.lax.fori_loop(0, chunks, one, out)
  saved = (head, hidden, labels, temperature, chunks, log_z, scores)
  return tuple(scores), saved


def _scores_backward(options, saved, cotangents):
  head, hidden, labels, temperature, chunks, log_z, scores = saved

  def one(i, grads):
    h, label, log_z_i = _slices((hidden, labels, log_z), i, options.size)
    g = _slices(cotangents, i, options.size)
    log_p = _product("vd,cd->vc", head, h) / temperature - log_z_i
    p = jnp.exp(log_p)
    # d log p[label] = 1[label] - p;  d entropy = -p (log p + entropy).
    dx = (_at_labels(options, label, p) - p) * g[0]
    if options.with_entropy:
      (entropy,) = _slices(scores[1:], i, options.size)
      dx -= p * (log_p + entropy) * g[1]
    dx = (dx / temperature).astype(head.dtype)
    d_hidden = options.total(_product("vc,vd->cd", dx, head))
    return (
      grads[0] + _product("vc,cd->vd", dx, h),
      _put(grads[1], d_hidden.astype(hidden.dtype), i),
    )

  zeros = jnp.zeros_like(head, jnp.float32), jnp.zeros_like(hidden)
  d_head, d_hidden = jax.lax.fori_loop(0, chunks, one, zeros)
  return d_head.astype(head.dtype), d_hidden, None, None, None


_scores.defvjp(_scores_forward, _scores_backward)
