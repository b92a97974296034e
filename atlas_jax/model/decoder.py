"""The decoder of Llama, Qwen2 and Qwen3: pre-norm blocks, rotary attention with
grouped heads, gated feed-forward. Numbers as in transformers 5.19
`models/{llama,qwen2,qwen3}`; norms, rotations and softmax in float32.

Axes: B rows, T tokens, D model, K key/value heads, R query heads a key/value
head (N = K R), H head dim, F feed-forward, V vocabulary, L layers.

A model is a plain tree of parameters: `Decoder.blocks` is one Block whose
leaves are stacked on a leading L. Matrices keep the orientation of Hugging
Face, [out, in], so that import and export only reshape.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from atlas_jax.model import attention
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.sharding import check_divisible, layout, place

REMAT = ("none", "dots", "full")
_ROWS = ("batch", "tokens")


@dataclasses.dataclass(frozen=True)
class Parameter:
  """How one parameter is declared: its shape, layout and first values."""

  shape: tuple[int, ...]
  axes: tuple[str | None, ...]  # logical names, see sharding.RULES
  init: str = "normal"  # normal | zeros | ones


def block_parameters(config: DecoderConfig) -> dict[str, Parameter]:
  """Every parameter of one block, by attribute name."""
  d, f, h = config.d_model, config.d_ffw, config.head_dim
  k, r = config.n_kv_heads, config.n_heads // config.n_kv_heads
  kv = "kv_heads"
  out = {
    "attn_norm": Parameter((d,), (None,), "ones"),
    "q": Parameter((k, r, h, d), (kv, None, None, "embed")),
    "k": Parameter((k, h, d), (kv, None, "embed")),
    "v": Parameter((k, h, d), (kv, None, "embed")),
    "o": Parameter((d, k, r, h), ("embed", kv, None, None)),
    "ffw_norm": Parameter((d,), (None,), "ones"),
    "gate": Parameter((f, d), ("ffw", "embed")),
    "up": Parameter((f, d), ("ffw", "embed")),
    "down": Parameter((d, f), ("embed", "ffw")),
  }
  if config.attention_bias:
    out["q_bias"] = Parameter((k, r, h), (kv, None, None), "zeros")
    out["k_bias"] = Parameter((k, h), (kv, None), "zeros")
    out["v_bias"] = Parameter((k, h), (kv, None), "zeros")
  if config.o_bias:
    out["o_bias"] = Parameter((d,), (None,), "zeros")
  if config.qk_norm:
    out["q_norm"] = Parameter((h,), (None,), "ones")
    out["k_norm"] = Parameter((h,), (None,), "ones")
  if config.mlp_bias:
    out["gate_bias"] = Parameter((f,), ("ffw",), "zeros")
    out["up_bias"] = Parameter((f,), ("ffw",), "zeros")
    out["down_bias"] = Parameter((d,), (None,), "zeros")
  return out


def top_parameters(config: DecoderConfig) -> dict[str, Parameter]:
  """Every parameter outside the blocks, by attribute name."""
  v, d = config.vocab_size, config.d_model
  out = {
    "embedding": Parameter((v, d), ("vocab", "embed")),
    "final_norm": Parameter((d,), (None,), "ones"),
  }
  if not config.tied:
    out["head"] = Parameter((v, d), ("vocab", "embed"))
  return out


def _declare(
  module: nnx.Module,
  parameters: dict[str, Parameter],
  config: DecoderConfig,
  rngs: nnx.Rngs,
  dtype: DTypeLike,
) -> None:
  initializers = {
    "normal": nnx.initializers.normal(config.initializer_range),
    "zeros": nnx.initializers.zeros_init(),
    "ones": nnx.initializers.ones_init(),
  }
  for name, p in parameters.items():
    value = initializers[p.init](
      rngs.params(), p.shape, dtype, out_sharding=layout(*p.axes)
    )
    setattr(module, name, nnx.Param(value))


class Block(nnx.Module):
  """The parameters of one layer (of all layers, once stacked on a leading L).

  `block_parameters` says which of them a config has.
  """

  attn_norm: Float[nnx.Param, " D"]
  q: Float[nnx.Param, "K R H D"]
  k: Float[nnx.Param, "K H D"]
  v: Float[nnx.Param, "K H D"]
  o: Float[nnx.Param, "D K R H"]
  q_bias: Float[nnx.Param, "K R H"]
  k_bias: Float[nnx.Param, "K H"]
  v_bias: Float[nnx.Param, "K H"]
  o_bias: Float[nnx.Param, " D"]
  q_norm: Float[nnx.Param, " H"]
  k_norm: Float[nnx.Param, " H"]
  ffw_norm: Float[nnx.Param, " D"]
  gate: Float[nnx.Param, "F D"]
  up: Float[nnx.Param, "F D"]
  down: Float[nnx.Param, "D F"]
  gate_bias: Float[nnx.Param, " F"]
  up_bias: Float[nnx.Param, " F"]
  down_bias: Float[nnx.Param, " D"]

  def __init__(
    self, config: DecoderConfig, *, rngs: nnx.Rngs, param_dtype: DTypeLike
  ):
    _declare(self, block_parameters(config), config, rngs, param_dtype)


class Decoder(nnx.Module):
  """All parameters; drawn at random under `rngs`.

  Inside `jax.set_mesh` every parameter is created in its layout.

  Raises:
    ShardingError: the mesh does not divide a size.
  """

  embedding: Float[nnx.Param, "V D"]
  final_norm: Float[nnx.Param, " D"]
  head: Float[nnx.Param, "V D"]  # unless config.tied
  blocks: Block

  def __init__(
    self, config: DecoderConfig, *, rngs: nnx.Rngs, param_dtype: DTypeLike
  ):
    check_divisible(
      {
        "vocab_size": ("vocab", config.vocab_size),
        "d_model": ("embed", config.d_model),
        "n_kv_heads": ("kv_heads", config.n_kv_heads),
        "d_ffw": ("ffw", config.d_ffw),
      }
    )
    _declare(self, top_parameters(config), config, rngs, param_dtype)
    self.blocks = jax.vmap(
      lambda r: Block(config, rngs=r, param_dtype=param_dtype)
    )(rngs.split(config.n_layers))


def matrices(model: Decoder) -> Any:
  """A tree like `model`: True at matrices, False at norms and biases."""

  def is_matrix(path, _):
    name = path[-2].name  # the attribute; path[-1] is the value of its Param
    return not name.endswith(("norm", "bias"))

  return jax.tree_util.tree_map_with_path(is_matrix, model)


def forward(
  model: Decoder,
  config: DecoderConfig,
  tokens: Int[Array, "B T"],
  segment_ids: Int[Array, "B T"],
  sequence_ids: Int[Array, "B T"],
  positions: Int[Array, "B T"],
  *,
  compute_dtype: DTypeLike,
  remat: str,
) -> Float[Array, "B T D"]:
  """Hidden states after the final norm, in `compute_dtype`.

  Args:
    model: parameters, in any float dtype; cast where they are used.
    config: what `model` was built from.
    tokens: packed rows.
    segment_ids: 0 is padding; a token sees only its own segment.
    sequence_ids: and of it what is shared (0) or of its own sequence.
    positions: of each token within its segment.
    compute_dtype: of activations and matrix products.
    remat: what the backward pass computes again: "none" (it keeps all
      activations), "dots" (it keeps products with weights), "full" (it keeps
      one [B, T, D] a layer).

  Raises:
    ValueError: an unknown `remat`.
  """
  if remat not in REMAT:
    raise ValueError(f"remat={remat!r} is not one of {', '.join(REMAT)}")
  places = attention.Places(segment_ids, sequence_ids, positions)
  queries, keys = (
    attention.Places(*(place(x, "batch", tokens_axis) for x in places))
    for tokens_axis in ("tokens", None)
  )
  mask = attention.visible(queries, keys)
  angles = attention.rope_angles(config, queries.positions)
  x = _embed(model.embedding[...].astype(compute_dtype), tokens)

  def body(x, block):
    x = x + _attention(block, config, x, mask, angles)
    return x + _feed_forward(block, config, x), None

  if remat != "none":
    policies = jax.checkpoint_policies
    body = jax.checkpoint(
      body,
      prevent_cse=False,  # a scan's body is never merged with its backward
      policy=policies.dots_with_no_batch_dims_saveable
      if remat == "dots"
      else policies.nothing_saveable,
    )
  x, _ = jax.lax.scan(body, x, model.blocks)
  return _rms_norm(x, model.final_norm[...], config.norm_eps)


def _embed(
  table: Float[Array, "V D"], tokens: Int[Array, "B T"]
) -> Float[Array, "B T D"]:
  """Rows of a table that is cut along both axes.

  A gather over a cut vocabulary has no Explicit layout and a one-hot product
  is [B, T, V]. So each device looks its slice of the vocabulary up for all
  tokens of its fsdp group (ids are cheap to gather), and rows travel once.
  The table itself, and its gradient, never leave their device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return table[tokens]

  P = jax.sharding.PartitionSpec

  def lookup(table, tokens):
    local = tokens - jax.lax.axis_index("tensor") * table.shape[0]
    mine = (local >= 0) & (local < table.shape[0])
    rows = table[jnp.where(mine, local, 0)]
    return jax.lax.psum(jnp.where(mine[..., None], rows, 0), "tensor")

  tokens = jax.sharding.reshard(tokens, P("data", "context"))
  x = jax.shard_map(
    lookup,
    in_specs=(P("tensor", "fsdp"), P("data", "context")),
    out_specs=P("data", "context", "fsdp"),
  )(table, tokens)
  return place(x, "batch", "tokens", None)


def _rms_norm(
  x: Float[Array, "*s D"], scale: Float[Array, " D"], eps: float
) -> Float[Array, "*s D"]:
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  return (y * scale.astype(jnp.float32)).astype(x.dtype)


def _project(
  equation: str,
  x: Float[Array, "..."],
  param: nnx.Param,
  weight_axes: tuple[str | None, ...],
  out_axes: tuple[str | None, ...],
  bias: nnx.Param | None = None,
) -> Float[Array, "..."]:
  """A product with a weight, gathered over fsdp in the dtype of `x`."""
  weight = place(param[...].astype(x.dtype), *weight_axes)
  y = jnp.einsum(
    equation,
    x,
    weight,
    precision=attention.matmul_precision(x.dtype),
    out_sharding=layout(*out_axes),
  )
  return y if bias is None else y + bias[...].astype(y.dtype)


def _attention(
  block: Block,
  config: DecoderConfig,
  x: Float[Array, "B T D"],
  mask: Bool[Array, "B T T"],
  angles: tuple[Float[Array, "B T H2"], Float[Array, "B T H2"]],
) -> Float[Array, "B T D"]:
  y = _rms_norm(x, block.attn_norm[...], config.norm_eps)
  rows, query, key = _ROWS, ("kv_heads", None, None), ("kv_heads", None)
  q_bias = k_bias = v_bias = None
  if config.attention_bias:
    q_bias, k_bias, v_bias = block.q_bias, block.k_bias, block.v_bias
  query_axes, key_axes = (*query, None), (*key, None)
  q = _project(
    "btd,krhd->btkrh", y, block.q, query_axes, (*rows, *query), q_bias
  )
  k = _project("btd,khd->btkh", y, block.k, key_axes, (*rows, *key), k_bias)
  v = _project("btd,khd->btkh", y, block.v, key_axes, (*rows, *key), v_bias)
  if config.qk_norm:
    q = _rms_norm(q, block.q_norm[...], config.norm_eps)
    k = _rms_norm(k, block.k_norm[...], config.norm_eps)
  q = attention.rotate(q, *angles)
  k = attention.rotate(k, *angles)
  y = attention.attend(q, k, v, mask)
  o_bias = block.o_bias if config.o_bias else None
  return _project(
    "btkrh,dkrh->btd", y, block.o, (None, *query), (*rows, None), o_bias
  )


def _feed_forward(
  block: Block, config: DecoderConfig, x: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
  y = _rms_norm(x, block.ffw_norm[...], config.norm_eps)
  rows, inner = _ROWS, ("ffw", None)
  gate_bias = up_bias = down_bias = None
  if config.mlp_bias:
    gate_bias, up_bias = block.gate_bias, block.up_bias
    down_bias = block.down_bias
  hidden = (*rows, "ffw")
  gate = _project("btd,fd->btf", y, block.gate, inner, hidden, gate_bias)
  up = _project("btd,fd->btf", y, block.up, inner, hidden, up_bias)
  y = jax.nn.silu(gate) * up
  return _project(
    "btf,df->btd", y, block.down, (None, "ffw"), (*rows, None), down_bias
  )
