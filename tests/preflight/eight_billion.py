"""Compiles a Qwen3-8B step of two layers for a target; prints what it found.

  python -m tests.preflight.eight_billion v5p:2x2x2 COMPILERS

Two layers, since all are one loop: the program of 36 differs in trip counts.
"""

import json
import os
import pathlib
import sys

os.environ.update(
  JAX_PLATFORMS="cpu",
  TPU_SKIP_MDS_QUERY="1",
  ALLOW_MULTIPLE_LIBTPU_LOAD="1",
  XLA_FLAGS="--xla_gpu_autotune_level=0",
  # A third of the time for a TPU; layouts and collectives are the same.
  JAX_EXEC_TIME_OPTIMIZATION_EFFORT="-1.0",
)

from atlas_jax.config import GrpoConfig, MeshConfig, ModelConfig, RunConfig
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.preflight import chips, hlo, programs

QWEN3_8B = {
  "model_type": "qwen3",
  "vocab_size": 151936,
  "hidden_size": 4096,
  "intermediate_size": 12288,
  "num_attention_heads": 32,
  "num_key_value_heads": 8,
  "head_dim": 128,
  "rms_norm_eps": 1e-6,
  "max_position_embeddings": 40960,
  "hidden_act": "silu",
  "rope_theta": 1e6,
  "tie_word_embeddings": False,
}
LENGTH = 2560  # equal to no size of the model, nor to a part of one


def main(target: str, compilers: str) -> None:
  _, devices = chips.devices(target, pathlib.Path(compilers))
  config = RunConfig(
    phases=("grpo",),
    mesh=MeshConfig(fsdp=-1, context=2),
    teacher=ModelConfig(),
    # 8 rows at most, two or four at a time: the loop over micro-batches.
    grpo=GrpoConfig(row_length=LENGTH, problems_per_step=2, group_size=4),
  )
  architecture = DecoderConfig.from_hf({**QWEN3_8B, "num_hidden_layers": 2})
  program = next(programs.compiled(config, architecture, devices))
  found = hlo.instructions(program.text)
  reduced = [
    sum(a.bytes for a in i.arrays)
    for i in found
    if i.operation.startswith("all-reduce") and hlo.group_size(i.line) > 1
  ]
  squares = [i.line for i in found if any(_square(a.dims) for a in i.arrays)]
  print(
    json.dumps(
      {
        "arguments": program.arguments,
        "sent": hlo.collective_bytes(found),
        "all_reduce": max(reduced),
        "squares": squares[:3],
        "largest": hlo.largest(found, 3),
      }
    )
  )


def _square(dims: tuple[int, ...]) -> bool:
  """Whether an array has a row's queries (a device's: half) times its keys."""
  return LENGTH in dims and (dims.count(LENGTH) > 1 or LENGTH // 2 in dims)


if __name__ == "__main__":
  main(*sys.argv[1:])
