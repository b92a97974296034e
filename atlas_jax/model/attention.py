"""Causal self-attention over packed rows, and its rotary positions.

Axes: B rows, T query tokens, S key tokens (the same row), K key/value heads,
R query heads a key/value head, H head dim. Grouped heads keep their own axis
R, so keys and values are never repeated.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.sharding import axis_size, layout, place

# Large, finite: -inf would turn a row that sees nothing into NaN.
_MASKED = -1e30

# A row's queries are cut into at most _BLOCKS blocks of at least _BLOCK.
_BLOCKS, _BLOCK = 8, 128


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
  freqs = jnp.asarray(rope_frequencies(config))
  angles = positions[..., None].astype(jnp.float32) * freqs
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


class Places(NamedTuple):
  """Where tokens stand in a packed row, as in data/packing.py."""

  segments: Int[Array, "B T"]
  sequences: Int[Array, "B T"]
  positions: Int[Array, "B T"]


def visible(queries: Places, keys: Places) -> Bool[Array, "B T S"]:
  """Which keys a query sees: of its own segment, up to its own position, and
  either shared (sequence 0) or of its own sequence.

  Segment 0 is padding: it sees nothing and nothing sees it.
  """
  q = Places(*(x[:, :, None] for x in queries))
  k = Places(*(x[:, None, :] for x in keys))
  same = (q.segments == k.segments) & (q.segments != 0)
  same &= (k.sequences == 0) | (q.sequences == k.sequences)
  return same & (k.positions <= q.positions)


def attend(
  q: Float[Array, "B T K R H"],
  k: Float[Array, "B T K H"],
  v: Float[Array, "B T K H"],
  mask: Bool[Array, "B T T"],
) -> Float[Array, "B T K R H"]:
  """softmax(q k / sqrt(H)) v over the visible keys; scores in float32.

  A query that sees no key gives 0, with gradient 0. No query may see a key
  that stands after it in the row: a block of queries is multiplied with the
  keys up to its end only, which saves up to half of the work.
  """
  # Queries stay cut along a row; every query needs all keys of its row.
  k = place(k, "batch", None, "kv_heads", None)
  v = place(v, "batch", None, "kv_heads", None)
  length = q.shape[1]
  size = max(_BLOCK, -(-length // _BLOCKS))
  if axis_size("tokens") > 1:
    size = length
  blocks = []
  for start in range(0, length, size):
    stop = min(start + size, length)
    block = (q[:, start:stop], k[:, :stop], v[:, :stop])
    blocks.append(_attend(*block, mask[:, start:stop, :stop]))
  return jnp.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]


def _attend(
  q: Float[Array, "B T K R H"],
  k: Float[Array, "B S K H"],
  v: Float[Array, "B S K H"],
  mask: Bool[Array, "B T S"],
) -> Float[Array, "B T K R H"]:
  precision = matmul_precision(q.dtype)
  # Axes in the order in which the product leaves them: scores are the largest
  # array of a layer, and transposing them would cost as much as the product.
  scores = jnp.einsum(
    "btkrh,bskh->bktrs",
    q * q.shape[-1] ** -0.5,
    k,
    precision=precision,
    preferred_element_type=jnp.float32,
    out_sharding=layout("batch", "kv_heads", "tokens", None, None),
  )
  mask = mask[:, None, :, None]
  top = jnp.max(scores, axis=-1, keepdims=True, where=mask, initial=_MASKED)
  top = jax.lax.stop_gradient(top)
  weights = jnp.exp(jnp.where(mask, scores - top, -jnp.inf))
  # Divided after the product with the values, where it is T H and not T S.
  total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-30)
  out = jnp.einsum(
    "bktrs,bskh->bktrh",
    weights.astype(q.dtype),
    v,
    precision=precision,
    preferred_element_type=jnp.float32,
    out_sharding=layout("batch", "kv_heads", "tokens", None, None),
  )
  return jnp.moveaxis(out / total, 1, 2).astype(q.dtype)


def matmul_precision(dtype: jnp.dtype) -> jax.lax.Precision:
  """float32 operands are multiplied as float32, also where chips round them."""
  if dtype == jnp.float32:
    return jax.lax.Precision.HIGHEST
  return jax.lax.Precision.DEFAULT
