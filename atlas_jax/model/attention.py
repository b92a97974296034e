"""Causal self-attention over packed rows, and its rotary positions.

Axes: B rows, T query tokens, S key tokens (the same row), K key/value heads,
R query heads a key/value head, H head dim, Q = T R. Grouped heads share their
keys and values, which are never repeated.

Blocks, online softmax and the backward pass are those of FlashAttention-2
(arXiv 2307.08691), in plain XLA.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.model.architecture import DecoderConfig

# The score of a key that is not seen, and a bound below all others. Finite:
# -inf - -inf is NaN. Unlike: exp(_UNSEEN - _LOWEST) is 0.
_UNSEEN, _LOWEST = -1e30, -1e29

# Tokens of a block of queries or keys, at most. Of 128, 192, 256, 384, 768 it
# is among the two fastest on a CPU; on accelerators nobody has measured it.
_BLOCK = 256

# The name of what the backward pass needs beside the arguments.
SAVED = "attention"


def rope_frequencies(config: DecoderConfig) -> np.ndarray:
  """Radians a position for each pair of channels, float32 [H/2].

  RoFormer (arXiv 2104.09864); `rope_scaling` as in Llama 3.1, the formula of
  transformers `modeling_rope_utils._compute_llama3_parameters`.
  """
  exponents = np.arange(0, config.head_dim, 2, dtype=np.float64)
  freqs = config.rope_theta ** -(exponents / config.head_dim)
  scaling = config.rope_scaling
  if scaling is not None:
    turns = scaling.original_max_positions * freqs / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    # Fast channels (turns >= high) stay, slow ones (turns <= low) are divided
    # by the factor, those between are a mixture.
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    freqs = freqs * (keep + (1 - keep) / scaling.factor)
  return freqs.astype(np.float32)


def rope_angles(
  config: DecoderConfig, positions: Int[Array, "B T"]
) -> tuple[Float[Array, "B T H2"], Float[Array, "B T H2"]]:
  """(cos, sin) of every position in float32, H2 = head_dim / 2."""
  angles = positions[..., None].astype(jnp.float32) * rope_frequencies(config)
  return jnp.cos(angles), jnp.sin(angles)


def rotate(
  x: Float[Array, "B T *heads H"],
  cos: Float[Array, "B T H2"],
  sin: Float[Array, "B T H2"],
) -> Float[Array, "B T *heads H"]:
  """Rotates channel i against channel i + H/2, in float32."""
  inner = (1,) * (x.ndim - 3)
  cos = cos.reshape(*cos.shape[:2], *inner, cos.shape[-1])
  sin = sin.reshape(*sin.shape[:2], *inner, sin.shape[-1])
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return rotated.astype(x.dtype)


def visible_until(
  segment_ids: Int[Array, "B T"], sequence_ids: Int[Array, "B T"]
) -> Int[Array, "B T"]:
  """Where each key's interval ends: key k is seen by k <= q < end[k].

  A segment stands in a row without a gap, its shared prompt first, then its
  sequences one after the other (`data.packing.pack` checks that). So a shared
  key is seen up to the end of its segment, any other up to the end of its
  sequence, and padding (segment 0) by nobody: its end is 0.
  """
  length = segment_ids.shape[1]

  def run_end(*ids):
    changes = functools.reduce(
      jnp.logical_or, (x[:, 1:] != x[:, :-1] for x in ids)
    )
    last = jnp.pad(changes, ((0, 0), (0, 1)), constant_values=True)
    after = jnp.where(last, jnp.arange(1, length + 1), length)
    return jax.lax.cummin(after, axis=1, reverse=True)

  end = jnp.where(
    sequence_ids == 0, run_end(segment_ids), run_end(segment_ids, sequence_ids)
  )
  return jnp.where(segment_ids == 0, 0, end)


def packed_attention(
  q: Float[Array, "B T K R H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K H"],
  q_at: Int[Array, " T"],
  end: Int[Array, "B S"],
) -> Float[Array, "B T K R H"]:
  """softmax(q k / sqrt(H)) v over the visible keys; scores in float32.

  The query that stands at q_at of its row sees the keys s <= q_at < end[s].
  One that sees none gives 0, with gradient 0.

  Rows are taken one by one, and of a row only the pairs of a block of queries
  and a block of keys in which anything is seen: memory grows with T, not T S.
  All arrays are whole, or one device's own inside a shard_map. A kernel that
  does the same on some chip would be chosen here.
  """
  b, t, n_kv, r, h = q.shape
  n_q, n_k = -(-t // _BLOCK), -(-k.shape[1] // _BLOCK)
  # Equal blocks: a row is filled up with queries and keys that see nothing.
  q, q_at = _filled(q * h**-0.5, 1, n_q, 0), _filled(q_at, 0, n_q, -1)
  k, v, end = (_filled(x, 1, n_k, 0) for x in (k, v, end))
  q = jnp.moveaxis(q, 1, 2).reshape(b, n_kv, -1, h)  # [B, K, T R, H]
  k, v = jnp.moveaxis(k, 1, 2), jnp.moveaxis(v, 1, 2)
  at = jnp.repeat(q_at, r)
  out = jax.lax.map(
    lambda row: _row((n_q, n_k), *row[:3], at, row[3]), (q, k, v, end)
  )
  return jnp.moveaxis(out.reshape(b, n_kv, -1, r, h), 2, 1)[:, :t]


def _filled(x: Array, axis: int, blocks: int, value: int) -> Array:
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % blocks)
  return jnp.pad(x, widths, constant_values=value) if widths[axis][1] else x


def _cut(x: Array, blocks: int, axis: int = 0) -> Array:
  """[.., n size, ..] -> [n, .., size, ..]."""
  shape = (*x.shape[:axis], blocks, -1, *x.shape[axis + 1 :])
  return jnp.moveaxis(x.reshape(shape), axis, 0)


def _plan(at: Int[Array, " Q"], end: Int[Array, " S"], blocks):
  """bool[n_q, n_k]: whether any query of a block may see a key of another."""
  at, end = _cut(at, blocks[0]), _cut(end, blocks[1])
  first = jnp.arange(blocks[1]) * end.shape[1]
  reached = first <= jnp.max(at, axis=1)[:, None]
  return reached & (jnp.min(at, axis=1)[:, None] < jnp.max(end, axis=1))


def _visits(seen: Bool[Array, "n m"]):
  """(how many blocks each of n visits, their indices first)."""
  return jnp.sum(seen, axis=1), jnp.argsort(~seen, axis=1, stable=True)


def product(equation: str, a: Array, b: Array) -> Float[Array, "..."]:
  """An einsum whose result is float32."""
  return jnp.einsum(
    equation,
    a,
    b,
    precision=matmul_precision(b.dtype),
    preferred_element_type=jnp.float32,
  )


def _scores(q, k, at, k_at, end) -> Float[Array, "K Q S"]:
  seen = (k_at <= at[:, None]) & (at[:, None] < end)
  return jnp.where(seen, product("kqh,ksh->kqs", q, k), _UNSEEN)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _row(
  blocks: tuple[int, int],
  q: Float[Array, "K Q H"],
  k: Float[Array, "K S H"],
  v: Float[Array, "K S H"],
  at: Int[Array, " Q"],
  end: Int[Array, " S"],
) -> Float[Array, "K Q H"]:
  """One row. A loop whose length is data has no gradient but its own."""
  return _row_forward(blocks, q, k, v, at, end)[0]


def _row_forward(blocks, q, k, v, at, end):
  n_q, n_k = blocks
  keys = tuple(_cut(x, n_k, 1) for x in (k, v))
  keys += tuple(_cut(x, n_k) for x in (jnp.arange(end.shape[0]), end))

  def one(args):
    q, at, count, order = args

    def add(i, carry):
      out, top, total = carry
      k, v, k_at, end = (x[order[i]] for x in keys)
      scores = _scores(q, k, at, k_at, end)
      new_top = jnp.maximum(top, jnp.max(scores, axis=-1))
      weights = jnp.exp(scores - new_top[..., None])
      shrink = jnp.exp(top - new_top)
      total = total * shrink + jnp.sum(weights, axis=-1)
      part = product("kqs,ksh->kqh", weights.astype(v.dtype), v)
      return out * shrink[..., None] + part, new_top, total

    out = jnp.zeros_like(q, jnp.float32)
    total = jnp.zeros_like(out[..., 0])
    out, top, total = jax.lax.fori_loop(
      0, count, add, (out, total + _LOWEST, total)
    )
    total = jnp.maximum(total, 1e-30)
    return (out / total[..., None]).astype(q.dtype), top + jnp.log(total)

  seen = _visits(_plan(at, end, blocks))
  out, log_total = jax.lax.map(one, (_cut(q, n_q, 1), _cut(at, n_q), *seen))
  out, log_total = (
    jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])
    for x in (out, log_total)
  )
  out, log_total = (checkpoint_name(x, SAVED) for x in (out, log_total))
  return out, (q, k, v, at, end, out, log_total)


def _row_backward(blocks, saved, d_out):
  q, k, v, at, end, out, log_total = saved
  n_q, n_k = blocks
  # d score = weight (d weight - delta), delta = the row's sum of both.
  delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), -1)
  queries = tuple(_cut(x, n_q, 1) for x in (q, d_out, log_total, delta))
  queries += (_cut(at, n_q),)

  def one(d_q, args):
    k, v, k_at, end, count, order = args

    def add(i, carry):
      d_q, d_k, d_v = carry
      q, d_out, log_total, delta, at = (x[order[i]] for x in queries)
      scores = _scores(q, k, at, k_at, end)
      weights = jnp.exp(scores - log_total[..., None])
      d_v += product("kqs,kqh->ksh", weights.astype(v.dtype), d_out)
      d_weights = product("kqh,ksh->kqs", d_out, v)
      d_scores = (weights * (d_weights - delta[..., None])).astype(q.dtype)
      d_k += product("kqs,kqh->ksh", d_scores, q)
      part = product("kqs,ksh->kqh", d_scores, k)
      return d_q.at[order[i]].add(part), d_k, d_v

    zeros = (jnp.zeros_like(k, jnp.float32), jnp.zeros_like(v, jnp.float32))
    d_q, d_k, d_v = jax.lax.fori_loop(0, count, add, (d_q, *zeros))
    return d_q, (d_k.astype(k.dtype), d_v.astype(v.dtype))

  keys = tuple(_cut(x, n_k, 1) for x in (k, v))
  keys += tuple(_cut(x, n_k) for x in (jnp.arange(end.shape[0]), end))
  d_q = jnp.zeros_like(queries[0], jnp.float32)
  visits = _visits(_plan(at, end, blocks).T)
  d_q, (d_k, d_v) = jax.lax.scan(one, d_q, (*keys, *visits))
  d_q, d_k, d_v = (
    jnp.moveaxis(x, 0, 1).reshape(y.shape).astype(y.dtype)
    for x, y in ((d_q, q), (d_k, k), (d_v, v))
  )
  return d_q, d_k, d_v, None, None


_row.defvjp(_row_forward, _row_backward)


def matmul_precision(dtype: jnp.dtype) -> jax.lax.Precision:
  """float32 operands are multiplied as float32, also where chips round them."""
  if dtype == jnp.float32:
    return jax.lax.Precision.HIGHEST
  return jax.lax.Precision.DEFAULT
