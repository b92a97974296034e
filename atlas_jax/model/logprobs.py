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
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.model.attention import product
from atlas_jax.model.decoder import Decoder
from atlas_jax.sharding import (
  RULES,
  add_up,
  add_up_and_cut,
  axis_size,
  gather,
  has_mesh,
  layout,
  part_index,
  place,
  spec,
  varying,
)

# A logit below all others; finite, since -inf - -inf is NaN.
_LOWEST = -1e30
# Numbers of a head cut along D that a device gathers at one time.
_SLICE = 1 << 25


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
  run = functools.partial(_local, chunk=chunk, with_entropy=with_entropy)
  args = (hidden, labels, needed, jnp.asarray(temperature, jnp.float32))
  if has_mesh():
    rows = spec("batch", "tokens")
    run = jax.shard_map(
      run,
      in_specs=(spec("vocab", "embed"), P(*rows, None), rows, rows, P()),
      out_specs=(rows, rows) if with_entropy else (rows,),
    )
  scores = run(head, *args)
  scores = tuple(_shift(place(s, "batch", None), 1) for s in scores)
  return scores if with_entropy else scores[0]


def logits(
  model: Decoder, config: DecoderConfig, hidden: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
  """All logits in float32: small shapes only."""
  head = place(_head(model, config).astype(hidden.dtype), "vocab", None)
  to = layout("batch", "tokens", "vocab")
  return product("btd,vd->btv", hidden, head, out_sharding=to)


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
) -> tuple[Float[Array, "B T"], ...]:
  """(log-probs of labels,) or (log-probs, entropies) of one device's tokens.

  0 where not needed. Of the head it holds a part of V and of D.
  """
  b, t, d = hidden.shape
  size = min(chunk, b * t)
  room = -(-b * t // size) * size
  # Needed tokens first; places beyond b * t stand for no token.
  order = jnp.argsort(~needed.reshape(-1), stable=True)
  order = jnp.concatenate([order, jnp.arange(b * t, room)])
  chunks = -(-jnp.sum(needed) // size)

  def first_needed(x):
    return varying(x.at[order].get(mode="fill", fill_value=0))

  scores = _scores(
    _Options(size, with_entropy, _slice_rows(head.shape[0], d)),
    varying(head),
    first_needed(hidden.reshape(b * t, d)),
    first_needed(labels.reshape(-1)),
    temperature,
    chunks,
  )
  scores = (s.at[order].set(s)[: b * t] for s in scores)
  return tuple(jnp.where(needed, s.reshape(b, t), 0.0) for s in scores)


def _slice_rows(vocab: int, width: int) -> int:
  """Rows of the head that a device has whole at one time."""
  if axis_size("embed") == 1:
    return vocab  # it has them anyway
  slices = -(-vocab * width // _SLICE)
  return -(-vocab // slices)


class _Options(NamedTuple):
  chunk: int  # C
  with_entropy: bool
  rows: int  # W, of a slice of the head


class _Sums(NamedTuple):
  """Of each token's logits x, over the part of the vocabulary seen so far."""

  top: Float[Array, " N"]  # the largest
  total: Float[Array, " N"]  # sum of exp(x - top)
  weighted: Float[Array, " N"]  # sum of exp(x - top) (x - top)
  at_label: Float[Array, " N"]  # x of the label, 0 while it was not seen

  def below(self, top: Float[Array, " N"]) -> "_Sums":
    """The same with a larger top."""
    shift = self.top - top
    shrink = jnp.exp(shift)
    weighted = shrink * (self.weighted + shift * self.total)
    return _Sums(top, shrink * self.total, weighted, self.at_label)

  def __add__(self, other: "_Sums") -> "_Sums":
    sums = (a + b for a, b in zip(self[1:], other[1:], strict=True))
    return _Sums(self.top, *sums)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scores(options, head, hidden, labels, temperature, chunks):
  """Log-probs (and entropies) of the first `chunks` chunks of N tokens.

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


def _scores_forward(options, head, hidden, labels, temperature, chunks):
  size, with_entropy, rows = options

  def add_slice(n, sums):
    part, ids, new = _slice(head, n, rows)

    def one(i, sums):
      h, label, *old = _at_chunk((hidden, labels, *sums), i, size)
      old = _Sums(*old)
      # [V, C]: sums over the outer axis run along vectors, which takes a CPU
      # a third of the time of sums over the inner one.
      x = product("vd,cd->vc", part, h) / temperature
      if head.shape[0] % rows:
        x = jnp.where(new, x, _LOWEST)
      top = jnp.maximum(old.top, jnp.max(x, axis=0))
      at_label = jnp.where(new & (ids == label), x, 0.0)
      x = x - top
      e = jnp.exp(x)
      weighted = jnp.sum(e * x, axis=0) if with_entropy else old.weighted
      found = _Sums(
        top, jnp.sum(e, axis=0), weighted, jnp.sum(at_label, axis=0)
      )
      both = old.below(top) + found
      return _Sums(
        *(_put(s, b, i * size) for s, b in zip(sums, both, strict=True))
      )

    return jax.lax.fori_loop(0, chunks, one, sums)

  zeros = jnp.zeros_like(labels, jnp.float32)
  sums = _Sums(zeros + _LOWEST, zeros, zeros, zeros)
  slices = -(-head.shape[0] // rows)
  sums = jax.lax.fori_loop(0, slices, add_slice, sums)
  if has_mesh():
    sums = sums.below(jax.lax.pmax(sums.top, RULES["vocab"]))
    sums = _Sums(sums.top, *(add_up(x, "vocab") for x in sums[1:]))
  log_total = jnp.log(sums.total)
  scores = [sums.at_label - sums.top - log_total]
  if with_entropy:
    scores.append(log_total - sums.weighted / sums.total)
  log_z = log_total + sums.top
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
