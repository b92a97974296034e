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
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from atlas_jax.config import ModelConfig
from atlas_jax.data.packing import PackedBatch
from atlas_jax.model import attention
from atlas_jax.model.adapted import Adapted
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.sharding import (
  add_up,
  check_divisible,
  gather,
  has_mesh,
  layout,
  own_part,
  part_index,
  varying,
)

# What the backward pass finds, by name of `remat`; None: everything.
_SAVED = {
  "none": None,
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(attention.SAVED),
  ),
  "full": jax.checkpoint_policies.nothing_saveable,
}
REMAT = tuple(_SAVED)

# The logical axis of each letter, where a parameter is more than one vector
# that every device needs; see sharding.RULES.
_AXES = {"D": "embed", "K": "kv_heads", "F": "ffw", "V": "vocab"}


@dataclasses.dataclass(frozen=True)
class Parameter:
  """How one parameter is declared: its shape, layout and first values."""

  shape: tuple[int, ...]
  axes: tuple[str | None, ...]
  init: Callable  # normal, zeros or ones


def _absent(config: DecoderConfig) -> set[str]:
  """Names that a model of `config` does without."""
  kinds = {
    "q_bias k_bias v_bias": config.attention_bias,
    "o_bias": config.o_bias,
    "q_norm k_norm": config.qk_norm,
    "gate_bias up_bias down_bias": config.mlp_bias,
    "head": not config.tied,
    "blocks": False,
  }
  return {n for names, has in kinds.items() if not has for n in names.split()}


def parameters(
  module: type[nnx.Module], config: DecoderConfig
) -> dict[str, Parameter]:
  """Every parameter of Block, or of Decoder outside of its blocks, by name."""
  sizes = {
    "D": config.d_model,
    "F": config.d_ffw,
    "H": config.head_dim,
    "K": config.n_kv_heads,
    "R": config.n_heads // config.n_kv_heads,
    "V": config.vocab_size,
  }
  normal = nnx.initializers.normal(config.initializer_range)
  ones, zeros = nnx.initializers.ones_init(), nnx.initializers.zeros_init()
  inits = {"norm": ones, "bias": zeros}
  out = {}
  for name, declared in module.__annotations__.items():
    if name not in _absent(config):
      letters = declared.dim_str.split()
      axes = [None] if letters == ["D"] else map(_AXES.get, letters)
      init = inits.get(name.rpartition("_")[2], normal)
      shape = tuple(sizes[x] for x in letters)
      out[name] = Parameter(shape, tuple(axes), init)
  return out


class _Declared(nnx.Module):
  """A module whose annotations are its parameters; drawn under `rngs`."""

  def __init__(
    self, config: DecoderConfig, *, rngs: nnx.Rngs, param_dtype: DTypeLike
  ):
    for name, p in parameters(type(self), config).items():
      to = layout(*p.axes)
      value = p.init(rngs.params(), p.shape, param_dtype, out_sharding=to)
      setattr(self, name, nnx.Param(value))


class Block(_Declared):
  """The parameters of one layer (of all L of them, once stacked)."""

  attn_norm: Float[nnx.Param, " D"]
  q: Float[nnx.Param, "K R H D"]
  k: Float[nnx.Param, "K H D"]
  v: Float[nnx.Param, "K H D"]
  o: Float[nnx.Param, "D K R H"]
  ffw_norm: Float[nnx.Param, " D"]
  gate: Float[nnx.Param, "F D"]
  up: Float[nnx.Param, "F D"]
  down: Float[nnx.Param, "D F"]
  q_bias: Float[nnx.Param, "K R H"]
  k_bias: Float[nnx.Param, "K H"]
  v_bias: Float[nnx.Param, "K H"]
  o_bias: Float[nnx.Param, " D"]
  q_norm: Float[nnx.Param, " H"]
  k_norm: Float[nnx.Param, " H"]
  gate_bias: Float[nnx.Param, " F"]
  up_bias: Float[nnx.Param, " F"]
  down_bias: Float[nnx.Param, " D"]


class Decoder(_Declared):
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
    super().__init__(config, rngs=rngs, param_dtype=param_dtype)
    self.blocks = jax.vmap(
      lambda r: Block(config, rngs=r, param_dtype=param_dtype)
    )(rngs.split(config.n_layers))


def forward(
  model: Decoder,
  config: DecoderConfig,
  batch: PackedBatch,
  options: ModelConfig,
) -> Float[Array, "B T D"]:
  """Hidden states after the final norm, in options.compute_dtype.

  Of one device: inside a shard_map, or with no mesh. It has its rows whole, its
  part of each weight, and computes the T tokens of S that it holds. Weights are
  gathered along D a layer at a time, and their gradients are cut again as they
  are added up over devices.

  Args:
    model: parameters, in any float dtype; cast where they are used.
    config: what `model` was built from.
    batch: packed rows [B, S]. A token sees only its own segment (0 is padding),
      and of it what is shared (sequence 0) or of its own sequence.
    options: its remat says what the backward pass computes again: "none"
      (nothing), "dots" (all but products with weights, and attention), "full"
      (it keeps one [B, T, D] a layer).
  """
  policy = _SAVED[options.remat]
  positions = own_part(batch.positions, "tokens", 1)
  angles = attention.rope_angles(config, positions)
  end = attention.visible_until(batch.segment_ids, batch.sequence_ids)
  q_at = own_part(jnp.arange(end.shape[1]), "tokens", 0)
  x = _embed(model.embedding[...].astype(options.compute_dtype), batch.tokens)

  def body(x, block):
    x = x + _attention(block, config, x, q_at, end, angles)
    return x + _feed_forward(block, config, x), None

  if policy is not None:
    # prevent_cse: a scan's body is never merged with its backward.
    body = jax.checkpoint(body, prevent_cse=False, policy=policy)
  x, _ = jax.lax.scan(body, x, model.blocks)
  return _rms_norm(x, model.final_norm[...], config.norm_eps)


def _embed(
  table: Float[Array, "V D"], tokens: Int[Array, "B S"]
) -> Float[Array, "B T D"]:
  """Rows of a table that is cut along both axes, for a device's own tokens.

  Each device looks its slice of the vocabulary and of D up for all tokens of
  the devices that hold the other slices of D (ids are cheap to gather), and
  rows travel once. The table, and its gradient, never leave their device.
  """
  if not has_mesh():
    return table[tokens]
  ids = jax.lax.all_gather(varying(tokens), "fsdp", axis=0, tiled=True)
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
  block: Block,
  name: str,
  embed_axis: int,
  summed: str | None = None,
) -> Float[Array, "..."]:
  """A product with a weight of the block, and its bias if it has one.

  Args:
    equation: of x and the weight.
    name: the weight's.
    embed_axis: of the weight; it is gathered in x's dtype.
    summed: the logical axis over which devices hold terms of the product.
  """
  param = getattr(block, name)
  if isinstance(param, Adapted):
    y = param.project(equation, x, embed_axis)
  else:
    weight = gather(param[...].astype(x.dtype), "embed", embed_axis)
    precision = attention.matmul_precision(x.dtype)
    y = jnp.einsum(equation, x, weight, precision=precision)
  if summed is not None:
    y = add_up(y, summed)
  bias = getattr(block, f"{name}_bias", None)
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
  q = _project("btd,krhd->btkrh", y, block, "q", 3)
  k = _project("btd,khd->btkh", y, block, "k", 2)
  v = _project("btd,khd->btkh", y, block, "v", 2)
  if config.qk_norm:
    q = _rms_norm(q, block.q_norm[...], config.norm_eps)
    k = _rms_norm(k, block.k_norm[...], config.norm_eps)
  q = attention.rotate(q, *angles)
  k = attention.rotate(k, *angles)
  # Queries stay cut along a row; each needs the keys of the whole row.
  k, v = gather(k, "tokens", 1), gather(v, "tokens", 1)
  y = attention.packed_attention(q, k, v, q_at, end)
  return _project("btkrh,dkrh->btd", y, block, "o", 0, "kv_heads")


def _feed_forward(
  block: Block, config: DecoderConfig, x: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
  y = varying(_rms_norm(x, block.ffw_norm[...], config.norm_eps))
  gate = _project("btd,fd->btf", y, block, "gate", 1)
  up = _project("btd,fd->btf", y, block, "up", 1)
  return _project(
    "btf,df->btd", jax.nn.silu(gate) * up, block, "down", 0, "ffw"
  )
