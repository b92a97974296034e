"""What all stages share: sizes, seeded token sequences, clocks, and rows."""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from atlas_jax.data import packing
from atlas_jax.model.architecture import DecoderConfig

GIB = 1 << 30

_QWEN3 = {
  "model_type": "qwen3",
  "architectures": ["Qwen3ForCausalLM"],
  "vocab_size": 151936,
  "hidden_size": 1024,
  "intermediate_size": 3072,
  "num_hidden_layers": 28,
  "num_attention_heads": 16,
  "num_key_value_heads": 8,
  "head_dim": 128,
  "max_position_embeddings": 40960,
  "rms_norm_eps": 1e-6,
  "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
  "tie_word_embeddings": True,
  "hidden_act": "silu",
  "attention_bias": False,
}
_TINY = {
  "vocab_size": 256,
  "hidden_size": 64,
  "intermediate_size": 96,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 16,
}
SHAPES = {
  "1.7b": _QWEN3 | {"hidden_size": 2048, "intermediate_size": 6144},
  "0.6b": _QWEN3,
  "tiny": _QWEN3 | _TINY,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of the work, which is the same for us and for every peer."""

  groups: int  # of GRPO, each with a prompt of its own
  group_size: int
  examples: int  # of SFT
  prompt: tuple[int, int]  # shortest and longest
  completion: tuple[int, int, int]  # shortest, median and longest
  row_length: int
  padded_rows: int  # of a micro-batch of the padded peer; TRL's default
  attention: tuple[int, ...]  # lengths of rows; as many as the longest holds
  steps: int  # that are timed, after one that is not


_REAL = Sizes(
  groups=8,
  group_size=8,
  examples=64,
  prompt=(256, 1024),
  completion=(32, 300, 1024),
  row_length=8192,
  padded_rows=8,
  attention=(4096, 8192, 32768),
  steps=3,
)
_TINY_SIZES = Sizes(
  groups=3,
  group_size=4,
  examples=6,
  prompt=(8, 16),
  completion=(3, 8, 24),
  row_length=128,
  padded_rows=4,
  attention=(64, 128),
  steps=1,
)


def sizes(shape: str) -> Sizes:
  return _TINY_SIZES if shape == "tiny" else _REAL


def architecture(shape: str) -> DecoderConfig:
  return DecoderConfig.from_hf(SHAPES[shape])


def compute_dtype(shape: str) -> str:
  return "float32" if shape == "tiny" else "bfloat16"


def sequences(kind: str, shape: str) -> list[packing.TokenSequence]:
  """The rollouts of a GRPO step, or the examples of an SFT step; seeded.

  Lengths of completions are log-normal, as those of samplers are about.
  """
  s, vocab = sizes(shape), SHAPES[shape]["vocab_size"]
  rng = np.random.default_rng(0)
  shortest, median, longest = s.completion
  count, each = (s.groups, s.group_size) if kind == "grpo" else (s.examples, 1)
  out = []
  for _ in range(count):
    prompt = rng.integers(3, vocab, rng.integers(*s.prompt, endpoint=True))
    for _ in range(each):
      drawn = median * rng.lognormal(sigma=0.7)
      n = int(np.clip(drawn, shortest, longest))
      tokens = np.concatenate([prompt, rng.integers(3, vocab, n)])
      out.append(
        packing.TokenSequence(
          tokens,
          np.arange(len(tokens)) >= len(prompt),
          rng.normal(-np.log(vocab), 0.3, len(tokens)),
          advantage=float(rng.normal()),
          prompt_length=len(prompt),
        )
      )
  return out


def packed(kind: str, shape: str) -> packing.PackedBatch:
  """`sequences` as rows: what a step of ours is given, [B, T]."""
  return packing.pack(
    sequences(kind, shape),
    length=sizes(shape).row_length,
    rows_multiple=1,
    share_prompts=kind == "grpo",
  )[0]


def timed(function: Callable, repeats: int) -> float:
  """Median seconds of a call that waits for its own end."""
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    function()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def why(error: Exception) -> str:
  """An error in a few words, for a cell of the table."""
  text = f"{type(error).__name__}: {error}"
  if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
    return "out of memory"
  return " ".join(text.split())[:160]


def emit(**row) -> None:
  """Adds a row to the file of results: what comes later cannot lose it."""
  with open(os.environ["GPU_BENCHMARK_ROWS"], "a") as f:
    f.write(json.dumps(row) + "\n")
