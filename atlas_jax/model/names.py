"""The one table of Hugging Face tensor names, read by import and export."""

import dataclasses
import math

from atlas_jax.errors import AtlasError
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.model.decoder import Block, Decoder, parameters

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"

# attribute -> (name in the file, axes of ours in each axis of the file)
TOP_NAMES = {
  "embedding": ("model.embed_tokens.weight", (1, 1)),
  "final_norm": ("model.norm.weight", (1,)),
  "head": ("lm_head.weight", (1, 1)),
}
BLOCK_NAMES = {
  "attn_norm": ("input_layernorm.weight", (1,)),
  "q": ("self_attn.q_proj.weight", (3, 1)),
  "k": ("self_attn.k_proj.weight", (2, 1)),
  "v": ("self_attn.v_proj.weight", (2, 1)),
  "o": ("self_attn.o_proj.weight", (1, 3)),
  "q_bias": ("self_attn.q_proj.bias", (3,)),
  "k_bias": ("self_attn.k_proj.bias", (2,)),
  "v_bias": ("self_attn.v_proj.bias", (2,)),
  "o_bias": ("self_attn.o_proj.bias", (1,)),
  "q_norm": ("self_attn.q_norm.weight", (1,)),
  "k_norm": ("self_attn.k_norm.weight", (1,)),
  "ffw_norm": ("post_attention_layernorm.weight", (1,)),
  "gate": ("mlp.gate_proj.weight", (1, 1)),
  "up": ("mlp.up_proj.weight", (1, 1)),
  "down": ("mlp.down_proj.weight", (1, 1)),
  "gate_bias": ("mlp.gate_proj.bias", (1,)),
  "up_bias": ("mlp.up_proj.bias", (1,)),
  "down_bias": ("mlp.down_proj.bias", (1,)),
}


class WeightsError(AtlasError):
  """Weights that do not fit the model they are for."""


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of a file and where its numbers live in a Decoder."""

  name: str
  shape: tuple[int, ...]  # in the file
  attribute: str
  layer: int | None  # None: outside the blocks
  groups: tuple[int, ...]  # how many axes of ours make each axis of the file


def tensors(config: DecoderConfig) -> list[Tensor]:
  """Every tensor of a model, in the order of export."""

  def tensor(name, groups, parameter, attribute, layer):
    shape, axes = [], iter(parameter.shape)
    for group in groups:
      shape.append(math.prod(next(axes) for _ in range(group)))
    return Tensor(name, tuple(shape), attribute, layer, groups)

  top = parameters(Decoder, config)
  blocks = parameters(Block, config)
  out = [tensor(*TOP_NAMES["embedding"], top["embedding"], "embedding", None)]
  for layer in range(config.n_layers):
    for attribute, (name, groups) in BLOCK_NAMES.items():
      if attribute in blocks:
        name = f"model.layers.{layer}.{name}"
        p = blocks[attribute]
        out.append(tensor(name, groups, p, attribute, layer))
  for attribute in ("final_norm", "head"):
    if attribute in top:
      out.append(tensor(*TOP_NAMES[attribute], top[attribute], attribute, None))
  return out
