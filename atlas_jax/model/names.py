"""The one table of Hugging Face tensor names, read by import and export."""

import dataclasses
import itertools
import math

import ml_dtypes
import numpy as np

from atlas_jax.errors import AtlasError
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.model.decoder import Block, Decoder, parameters

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
DTYPES = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}

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
  """Weights that do not fit their model."""


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of a file and the parameter of a Decoder that holds it."""

  name: str
  shape: tuple[int, ...]  # in the file
  attribute: str
  layer: int | None  # None: outside the blocks
  groups: tuple[int, ...]  # how many axes of ours each axis of the file has

  def parameter(self, model: Decoder):
    """The parameter: of a block those of all layers, stacked."""
    owner = model if self.layer is None else model.blocks
    return getattr(owner, self.attribute)


def parameter_count(config: DecoderConfig) -> int:
  """Of a whole model; a tied head counts once."""
  return sum(math.prod(t.shape) for t in tensors(config))


def tensors(config: DecoderConfig) -> list[Tensor]:
  """Every tensor of a model, in the order of export."""

  def named(names, parameters, layer=None, prefix=""):
    out = []
    for attribute, (name, groups) in names.items():
      if attribute in parameters:
        axes = iter(parameters[attribute].shape)
        shape = tuple(math.prod(itertools.islice(axes, n)) for n in groups)
        out.append(Tensor(prefix + name, shape, attribute, layer, groups))
    return out

  embedding, *others = named(TOP_NAMES, parameters(Decoder, config))
  blocks = parameters(Block, config)
  of_blocks = [
    tensor
    for layer in range(config.n_layers)
    for tensor in named(BLOCK_NAMES, blocks, layer, f"model.layers.{layer}.")
  ]
  return [embedding, *of_blocks, *others]
