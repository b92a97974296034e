"""Tiny random models on disk, and servers for them; tests/phases uses it too.

head_dim is 32, the smallest that vLLM's CPU attention takes.
"""

import contextlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from atlas_jax.config import ServingConfig
from atlas_jax.server_config import ServerConfig
from atlas_jax.serving.server import (
  Server,
  StudentServer,
  TeacherServer,
  start,
)

VOCAB, D, L, N, K, H, F = 320, 64, 2, 2, 1, 32, 128
EOS = 2
_KINDS = {
  "llama": "LlamaForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
  "qwen3": "Qwen3ForCausalLM",
}


def weights(
  kind: str, seed: int, *, tied: bool, kv_heads: int = K
) -> dict[str, np.ndarray]:
  """Random float32 tensors in Hugging Face names."""
  rng = np.random.default_rng(seed)

  def normal(*shape, scale=0.3):
    return rng.normal(0, scale, shape).astype(np.float32)

  out = {"model.embed_tokens.weight": normal(VOCAB, D)}
  for i in range(L):
    layer = {
      "self_attn.q_proj.weight": normal(N * H, D),
      "self_attn.k_proj.weight": normal(kv_heads * H, D),
      "self_attn.v_proj.weight": normal(kv_heads * H, D),
      "self_attn.o_proj.weight": normal(D, N * H),
      "mlp.gate_proj.weight": normal(F, D),
      "mlp.up_proj.weight": normal(F, D),
      "mlp.down_proj.weight": normal(D, F),
      "input_layernorm.weight": 1 + normal(D, scale=0.1),
      "post_attention_layernorm.weight": 1 + normal(D, scale=0.1),
    }
    if kind == "qwen2":
      layer |= {
        f"self_attn.{x}_proj.bias": normal(n * H)
        for x, n in (("q", N), ("k", kv_heads), ("v", kv_heads))
      }
    if kind == "qwen3":
      layer |= {f"self_attn.{x}_norm.weight": 1 + normal(H) for x in "qk"}
    out |= {f"model.layers.{i}.{name}": t for name, t in layer.items()}
  out["model.norm.weight"] = 1 + normal(D, scale=0.1)
  if not tied:
    out["lm_head.weight"] = normal(VOCAB, D)
  return out


def save_model(
  path: Path,
  kind: str = "llama",
  seed: int = 0,
  *,
  tied: bool = True,
  kv_heads: int = K,
) -> Path:
  """A model directory with a config, weights and a tokenizer."""
  path.mkdir(parents=True)
  config = {
    "architectures": [_KINDS[kind]],
    "model_type": kind,
    "vocab_size": VOCAB,
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": L,
    "num_attention_heads": N,
    "num_key_value_heads": kv_heads,
    "head_dim": H,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": tied,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
    "torch_dtype": "float32",
  }
  (path / "config.json").write_text(json.dumps(config))
  save_file(
    weights(kind, seed, tied=tied, kv_heads=kv_heads),
    path / "model.safetensors",
    metadata={"format": "pt"},
  )
  words = {f"w{i}": i for i in range(VOCAB)}
  tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  tokenizer.save(str(path / "tokenizer.json"))
  (path / "tokenizer_config.json").write_text(
    json.dumps(
      {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "w1",
        "eos_token": f"w{EOS}",
        "pad_token": "w0",
        "unk_token": "w3",
        "chat_template": "{{ messages[0]['content'] }}",
      }
    )
  )
  return path


def server_config(**changes) -> ServerConfig:
  """Small and in float32, so that answers can be compared exactly."""
  return ServerConfig(
    **{
      "dtype": "float32",
      "max_model_len": 512,
      "max_num_seqs": 64,
      "kv_cache_bytes": 1 << 27,
      **changes,
    }
  )


def teacher(model: Path, workdir: Path, **changes) -> TeacherServer:
  return TeacherServer(
    server_config(**changes),
    model_path=model,
    workdir=workdir,
    start_timeout_s=300,
  )


def student(model: Path, workdir: Path, **changes) -> StudentServer:
  return StudentServer(
    server_config(**changes),
    model_path=model,
    workdir=workdir,
    start_timeout_s=300,
  )


def client(server, **changes):
  options = {"request_timeout_s": 60.0, "retries": 2, "max_concurrency": 32}
  return contextlib.aclosing(
    server.client(
      lambda ids: " ".join(f"w{i}" for i in ids),
      ServingConfig(**{**options, **changes}),
    )
  )


@contextlib.contextmanager
def started(server: Server):
  start(server)
  try:
    yield server
  finally:
    server.end()
