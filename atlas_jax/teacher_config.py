"""The config of the teacher that is trained."""

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from atlas_jax.config_tree import (
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
  Valid,
)
from atlas_jax.server_config import Dtype

Offload = Literal["none", "moments", "masters"]
# PEFT's names.
LoraTarget = Literal[
  *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"), "down_proj"
]
_TARGETS = Valid(
  "must name matrices, each once", lambda x: x and len({*x}) == len(x)
)


@dataclass(frozen=True)
class LoraConfig:
  """Adapters that are trained in place of the weights; see model/lora.py."""

  rank: NonNegativeInt = 0  # 0: none, all weights are trained
  alpha: PositiveFloat = 32.0  # the update is scaled by alpha / rank
  # The matrices of each layer that have one. No lm_head: tied embeddings would
  # move with it.
  targets: Annotated[tuple[LoraTarget, ...], _TARGETS] = typing.get_args(
    LoraTarget
  )


@dataclass(frozen=True)
class ModelConfig:
  """The teacher that is trained."""

  # A Hugging Face directory (config.json, *.safetensors, tokenizer files), or
  # ORG/NAME[@REVISION] of the Hub.
  path: str = "models/teacher"
  # True: path holds config.json and a tokenizer, and weights are drawn anew.
  random_init: bool = False
  param_dtype: Dtype = "float32"
  compute_dtype: Dtype = "bfloat16"
  remat: Literal["none", "dots", "full"] = "full"
  logprob_chunk: PositiveInt = 256  # tokens whose logits exist at one time
  lora: LoraConfig = LoraConfig()
  # What lies in the memory of the host while it is not needed: AdamW's moments;
  # with masters the weights, too, of which the device has a bfloat16 copy.
  offload: Offload = "none"

  def conflicts(self) -> Iterator[str]:
    if self.offload != "none" and self.lora.rank:
      yield (
        f"offload={self.offload} has no effect on adapters, whose moments are"
        " small; valid with lora.rank=0"
      )
    dtypes = self.param_dtype, self.compute_dtype
    if self.offload == "masters" and dtypes != ("float32", "bfloat16"):
      yield (
        "offload=masters keeps a bfloat16 copy of float32 weights; valid with"
        " param_dtype=float32 and compute_dtype=bfloat16"
      )
