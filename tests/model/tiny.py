"""Tiny random Hugging Face models, made by transformers and torch."""

import os
from typing import Any

import torch
import transformers

FAMILIES = ("llama", "qwen2", "qwen3")
VOCAB = 64
LLAMA3_ROPE = {
  "rope_type": "llama3",
  "rope_theta": 100.0,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}
_SIZES = {
  "vocab_size": VOCAB,
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 8,
  "max_position_embeddings": 128,
  "rms_norm_eps": 1e-5,
  "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
  "tie_word_embeddings": False,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "pad_token_id": 0,
}


def make_model(
  family: str, *, seed: int = 0, **overrides: Any
) -> transformers.PreTrainedModel:
  """A float32 model on the CPU whose every parameter is random.

  Norm scales and biases too: at 1 and 0, as transformers draws them, a wrong
  one would not be seen. `overrides` are fields of the Hugging Face config.
  """
  config = transformers.AutoConfig.for_model(family, **{**_SIZES, **overrides})
  config._attn_implementation = "eager"
  model = transformers.AutoModelForCausalLM.from_config(config).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, p in model.named_parameters():
      noise = torch.randn(p.shape, generator=generator)
      p.copy_(1 + 0.3 * noise if "norm" in name else 0.2 * noise)
  return model


def save_model(
  directory: str | os.PathLike,
  family: str,
  *,
  seed: int = 0,
  dtype: torch.dtype = torch.float32,
  max_shard_size: str = "5GB",
  **overrides: Any,
) -> transformers.PreTrainedModel:
  """`make_model`, saved as safetensors with config and generation config."""
  model = make_model(family, seed=seed, **overrides).to(dtype)
  model.generation_config.temperature = 0.7
  model.generation_config.do_sample = True
  model.save_pretrained(directory, max_shard_size=max_shard_size)
  return model


def save_tokenizer(
  directory: str | os.PathLike, vocab_size: int = VOCAB
) -> None:
  """A tokenizer of `vocab_size` words w3, w4, ... with a chat template."""
  from tokenizers import Tokenizer, models, pre_tokenizers

  special = ["<pad>", "<s>", "</s>"]
  words = [*special, *(f"w{i}" for i in range(len(special), vocab_size))]
  tokenizer = Tokenizer(
    models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>")
  )
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token="<pad>",
    bos_token="<s>",
    eos_token="</s>",
    unk_token="<pad>",
  )
  fast.chat_template = (
    "{% for m in messages %}<s> {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> {% endif %}"
  )
  fast.save_pretrained(directory)
