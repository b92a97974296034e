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
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from atlas_jax.model import attention
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.sharding import (
  add_up,
  check_divisible,
  gather,
  has_mesh,
  layout,
  part_index,
  place,
  spec,
  varying,
)

REMAT = ("none", "dots", "full")


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
  run = functools.partial(
    _forward, config=config, compute_dtype=compute_dtype, remat=remat
  )
  args = (tokens, positions, segment_ids, sequence_ids)
  if not has_mesh():
    return run(model, *args)
  weights = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, model)
  own, whole = ("batch", "tokens"), ("batch", None)
  layouts = (own, own, whole, whole)
  return jax.shard_map(
    run,
    in_specs=(weights, *(spec(*axes) for axes in layouts)),
    out_specs=spec(*own, None),
  )(model, *(place(x, *axes) for x, axes in zip(args, layouts, strict=True)))


def _forward(
  model: Decoder,
  tokens: Int[Array, "B T"],
  positions: Int[Array, "B T"],
  segment_ids: Int[Array, "B S"],
  sequence_ids: Int[Array, "B S"],
  *,
  config: DecoderConfig,
  compute_dtype: DTypeLike,
  remat: str,
) -> Float[Array, "B T D"]:
  """`forward` of one device: of its rows the T tokens that it holds of S.

  Weights are gathered along D a layer at a time, and their gradients are cut
  again as they are added up over devices.
  """
  angles = attention.rope_angles(config, positions)
  end = attention.visible_until(segment_ids, sequence_ids)
  length = tokens.shape[1]
  q_at = part_index("tokens") * length + jnp.arange(length)
  x = _embed(model.embedding[...].astype(compute_dtype), tokens)

  def body(x, block):
    x = x + _attention(block, config, x, q_at, end, angles)
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

  Each device looks its slice of the vocabulary and of D up for all tokens of
  the devices that hold the other slices of D (ids are cheap to gather), and
  rows travel once. The table, and its gradient, never leave their device.
  """
  if not has_mesh():
    return table[tokens]
  ids = jax.lax.all_gather(varying(tokens), "fsdp", axis=0, tiled=True)
  ids = jax.lax.all_gather(ids, "context", axis=1, tiled=True)
  local = ids - part_index("vocab") * table.shape[0]
  mine = (local >= 0) & (local < table.shape[0])
  rows = jnp.where(mine[..., None], table[jnp.where(mine, local, 0)], 0)
  rows = add_up(rows, "vocab")
  rows = jax.lax.all_to_all(rows, "context", 1, 2, tiled=True)
  return jax.lax.all_to_all(rows, "fsdp", 0, 2, tiled=True)


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
  embed_axis: int,
  bias: nnx.Param | None = None,
) -> Float[Array, "..."]:
  """A product with a weight, whose `embed_axis` is gathered in x's dtype."""
  weight = gather(param[...].astype(x.dtype), "embed", embed_axis)
  precision = attention.matmul_precision(x.dtype)
  y = jnp.einsum(equation, x, weight, precision=precision)
  return y if bias is None else y + bias[...].astype(y.dtype)


def _attention(
  block: Block,
  config: DecoderConfig,
  x: Float[Array, "B T D"],
  q_at: Int[Array, " T"],
  end: Int[Array, "B S"],
  angles: tuple[Float[Array, "B T H2"], Float[Array, "B T H2"]],
) -> Float[Array, "B T D"]:
  y = varying(_rms_norm(x, block.attn_norm[...], config.norm_eps))
  q_bias = k_bias = v_bias = None
  if config.attention_bias:
    q_bias, k_bias, v_bias = block.q_bias, block.k_bias, block.v_bias
  q = _project("btd,krhd->btkrh", y, block.q, 3, q_bias)
  k = _project("btd,khd->btkh", y, block.k, 2, k_bias)
  v = _project("btd,khd->btkh", y, block.v, 2, v_bias)
  if config.qk_norm:
    q = _rms_norm(q, block.q_norm[...], config.norm_eps)
    k = _rms_norm(k, block.k_norm[...], config.norm_eps)
  q = attention.rotate(q, *angles)
  k = attention.rotate(k, *angles)
  # Queries stay cut along a row; each needs the keys of the whole row.
  k, v = gather(k, "tokens", 1), gather(v, "tokens", 1)
  y = attention.packed_attention(q, k, v, q_at, end)
  y = add_up(_project("btkrh,dkrh->btd", y, block.o, 0), "kv_heads")
  return y + block.o_bias[...].astype(y.dtype) if config.o_bias else y


def _feed_forward(
  block: Block, config: DecoderConfig, x: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
  y = varying(_rms_norm(x, block.ffw_norm[...], config.norm_eps))
  gate_bias = up_bias = None
  if config.mlp_bias:
    gate_bias, up_bias = block.gate_bias, block.up_bias
  gate = _project("btd,fd->btf", y, block.gate, 1, gate_bias)
  up = _project("btd,fd->btf", y, block.up, 1, up_bias)
  y = jax.nn.silu(gate) * up
  y = add_up(_project("btf,df->btd", y, block.down, 0), "ffw")
  return y + block.down_bias[...].astype(y.dtype) if config.mlp_bias else y
