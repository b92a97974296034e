"""Architectures as a model's config.json writes them."""

BASE = {
  "model_type": "llama",
  "vocab_size": 64,
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "rms_norm_eps": 1e-5,
  "max_position_embeddings": 128,
  "hidden_act": "silu",
}


LLAMA3 = {
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}
