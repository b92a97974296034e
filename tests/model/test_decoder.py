"""Parity with transformers, packing, causality, remat."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from atlas_jax.config import ModelConfig
from atlas_jax.model import decoder, hf, logprobs, matrices
from tests.model import by_hand, tiny

TOKENS = np.random.default_rng(0).integers(0, tiny.VOCAB, (2, 24))


def rope(**changes):
  return {"rope_parameters": {**tiny.LLAMA3_ROPE, **changes}}


def plain_rope(theta):
  return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


# Each field that changes the output, moved away from the value in tiny._SIZES.
SHARED = {
  "vocab_size": {"vocab_size": 72},
  "hidden_size": {"hidden_size": 48},
  "intermediate_size": {"intermediate_size": 56},
  "num_hidden_layers": {"num_hidden_layers": 3},
  "num_attention_heads": {"num_attention_heads": 8},
  "ungrouped": {"num_key_value_heads": 4},
  "one_kv_head": {"num_key_value_heads": 1},
  "head_dim": {"head_dim": 16},
  "rms_norm_eps": {"rms_norm_eps": 1e-1},
  "rope_theta": plain_rope(5000.0),
  "tied": {"tie_word_embeddings": True},
  "llama3": rope(),
  "llama3.rope_theta": rope(rope_theta=5000.0),
  "llama3.factor": rope(factor=2.0),
  "llama3.low_freq_factor": rope(low_freq_factor=0.25),
  "llama3.high_freq_factor": rope(high_freq_factor=16.0),
  "llama3.original": rope(original_max_position_embeddings=64),
}
FAMILY = {
  "llama": {
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
  },
  "qwen2": {},
  "qwen3": {"attention_bias": {"attention_bias": True}},
}
# Where a family read one of them in another way, this would be another model.
EVERYTHING = {
  "vocab_size": 72,
  "hidden_size": 48,
  "intermediate_size": 56,
  "num_hidden_layers": 3,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  "head_dim": 16,
  "rms_norm_eps": 1e-1,
  "tie_word_embeddings": True,
  **rope(
    rope_theta=5000.0,
    factor=2.0,
    low_freq_factor=0.25,
    high_freq_factor=16.0,
    original_max_position_embeddings=64,
  ),
}
CASES = [
  *(("llama", name, change) for name, change in SHARED.items()),
  *((family, "base", {}) for family in tiny.FAMILIES),
  *((family, "everything", EVERYTHING) for family in tiny.FAMILIES),
  *((f, name, change) for f in FAMILY for name, change in FAMILY[f].items()),
]


def unpacked(tokens):
  """Tokens, segments, sequences, positions of rows of one segment each."""
  tokens = np.asarray(tokens, np.int32)
  positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
  ones = np.ones_like(tokens)
  return tokens, ones, ones, positions.astype(np.int32)


def our_logits(model, config, batch, **options):
  options = dataclasses.replace(by_hand.PLAIN, **options)

  @jax.jit
  def run(model, batch):
    packed = by_hand.batch_of(*batch)
    hidden = decoder.forward(model, config, packed, options)
    return by_hand.logits(model, config, hidden)

  return np.asarray(run(model, batch))


def torch_logits(model, tokens):
  with torch.no_grad():
    return model(torch.tensor(tokens)).logits.numpy()


@pytest.fixture(scope="module")
def base_logits():
  return {f: torch_logits(tiny.make_model(f), TOKENS) for f in tiny.FAMILIES}


@pytest.mark.parametrize(
  ("family", "name", "change"), CASES, ids=[f"{f}-{n}" for f, n, _ in CASES]
)
def test_logits_equal_transformers(family, name, change, tmp_path, base_logits):
  expected = torch_logits(tiny.save_model(tmp_path, family, **change), TOKENS)
  config, model = hf.load(tmp_path, jnp.float32)
  ours = our_logits(model, config, unpacked(TOKENS))
  np.testing.assert_allclose(ours, expected, atol=1e-4)
  if name.startswith("llama3."):
    base = torch_logits(tiny.make_model(family, **SHARED["llama3"]), TOKENS)
  else:
    base = base_logits[family]
  if name != "base":
    # A field that moves nothing would make this parity empty.
    moved = np.abs(ours[..., : base.shape[-1]] - base).max()
    assert moved > 1e-2, f"{name} changes the logits by {moved} only"


def test_old_spelling_of_config_gives_the_same_logits(tmp_path):
  expected = torch_logits(
    tiny.save_model(tmp_path, "llama", **SHARED["llama3"]), TOKENS
  )
  hf_config = hf.read_config(tmp_path)
  rope = hf_config.pop("rope_parameters")
  hf_config["rope_theta"] = rope.pop("rope_theta")
  hf_config["rope_scaling"] = rope
  config = decoder.DecoderConfig.from_hf(hf_config)
  assert config == hf.load(tmp_path, jnp.float32)[0]
  _, model = hf.load(tmp_path, jnp.float32)
  ours = our_logits(model, config, unpacked(TOKENS))
  np.testing.assert_allclose(ours, expected, atol=1e-4)


def packed_rows():
  """Segments of 5, 9 and 3 tokens in a row of 20, and each alone."""
  rng = np.random.default_rng(1)
  parts = [rng.integers(0, tiny.VOCAB, n) for n in (5, 9, 3)]
  row = np.zeros((1, 20), np.int32)
  segments, positions = np.zeros_like(row), np.zeros_like(row)
  at = 0
  for i, part in enumerate(parts):
    where = slice(at, at + len(part))
    row[0, where] = part
    segments[0, where] = i + 1
    positions[0, where] = np.arange(len(part))
    at += len(part)
  return parts, (row, segments, segments, positions)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_packed_equals_unpacked(family, tiny_models):
  config, model = hf.load(tiny_models[family], jnp.float32)
  parts, batch = packed_rows()
  packed, at = our_logits(model, config, batch)[0], 0
  assert np.all(np.isfinite(packed))
  for part in parts:
    alone = our_logits(model, config, unpacked(part[None]))[0]
    np.testing.assert_allclose(packed[at : at + len(part)], alone, atol=2e-5)
    at += len(part)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_segments_do_not_leak(family, tiny_models):
  config, model = hf.load(tiny_models[family], jnp.float32)
  _, (row, segments, _, positions) = packed_rows()
  rest = (segments, segments, positions)
  before = our_logits(model, config, (row, *rest))
  changed = np.where(segments == 2, (row + 7) % tiny.VOCAB, row)
  after = our_logits(model, config, (changed, *rest))
  np.testing.assert_array_equal(before[segments != 2], after[segments != 2])
  assert np.abs(before - after)[segments == 2].min(axis=0).max() > 1e-3


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_future_is_not_seen(family, tiny_models):
  config, model = hf.load(tiny_models[family], jnp.float32)
  changed = TOKENS.copy()
  changed[:, 10] = (changed[:, 10] + 1) % tiny.VOCAB
  before = our_logits(model, config, unpacked(TOKENS))
  after = our_logits(model, config, unpacked(changed))
  np.testing.assert_array_equal(before[:, :10], after[:, :10])
  assert np.all(np.abs(before - after)[:, 10:].max(axis=-1) > 1e-6)


def test_an_empty_row_has_no_nan_gradient(tiny_models):
  config, model = hf.load(tiny_models["qwen3"], jnp.float32)
  _, arrays = packed_rows()
  batch = [np.concatenate([x, np.zeros_like(x)]) for x in arrays]

  options = dataclasses.replace(by_hand.PLAIN, remat="full", logprob_chunk=8)

  @jax.jit
  def grad(model):
    def loss(model):
      given = model, config, by_hand.batch_of(*batch, batch[2]), options
      hidden = decoder.forward(*given)
      return jnp.sum(logprobs.token_logprobs(*given, hidden, temperature=1.0))

    return jax.grad(loss)(model)

  for leaf in jax.tree.leaves(grad(model)):
    assert np.all(np.isfinite(leaf)) and np.any(leaf)


def test_remat_changes_no_gradient(tiny_models):
  config, model = hf.load(tiny_models["llama"], jnp.float32)
  batch = by_hand.batch_of(*unpacked(TOKENS))

  def gradient(remat):
    def loss(model):
      options = dataclasses.replace(by_hand.PLAIN, remat=remat)
      hidden = decoder.forward(model, config, batch, options)
      return jnp.mean(hidden**2)

    return jax.jit(jax.grad(loss))(model)

  base = gradient("none")
  for remat in ("dots", "full"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
      base,
      gradient(remat),
    )


def test_remat_keeps_less(tiny_models):
  config, model = hf.load(tiny_models["llama"], jnp.float32)
  batch = by_hand.batch_of(*unpacked(np.tile(TOKENS, (8, 4))))

  def temporary_bytes(remat):
    def loss(model):
      options = dataclasses.replace(by_hand.PLAIN, remat=remat)
      hidden = decoder.forward(model, config, batch, options)
      return jnp.mean(hidden**2)

    compiled = jax.jit(jax.grad(loss)).lower(model).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  none, dots, full = map(temporary_bytes, decoder.REMAT)
  assert full < dots < none


def test_dots_keeps_what_attention_gave(tiny_models):
  """Attention loops over its blocks forward and backward, in full once more."""
  config, model = hf.load(tiny_models["llama"], jnp.float32)
  batch = by_hand.batch_of(*unpacked(TOKENS))

  def loops(remat):
    def loss(model):
      options = dataclasses.replace(by_hand.PLAIN, remat=remat)
      return jnp.sum(decoder.forward(model, config, batch, options))

    return str(jax.make_jaxpr(jax.grad(loss))(model)).count(" while[")

  assert [loops(remat) for remat in decoder.REMAT] == [2, 2, 3]


def test_bfloat16_compute_keeps_float32_parameters(tiny_models):
  config, model = hf.load(tiny_models["llama"], jnp.float32)
  batch = unpacked(TOKENS)
  options = ModelConfig(compute_dtype="bfloat16", remat="full")
  hidden = decoder.forward(model, config, by_hand.batch_of(*batch), options)
  assert hidden.dtype == jnp.bfloat16
  exact = our_logits(model, config, batch)
  rounded = our_logits(model, config, batch, compute_dtype="bfloat16")
  gap = np.abs(exact - rounded)
  assert 0 < gap.mean() < 0.05


def test_matrices_are_told_from_norms_and_biases():
  config = decoder.DecoderConfig.from_hf(
    tiny.make_model("qwen2").config.to_dict()
  )
  model = hf.init(config, 0, jnp.float32)
  flags = jax.tree.leaves(matrices.matrices(model))
  for flag, leaf in zip(flags, jax.tree.leaves(model), strict=True):
    # Only matrices are drawn at random.
    assert flag == (np.unique(leaf).size > 2)


def test_init_is_drawn_from_the_seed(tiny_models):
  config, _ = hf.load(tiny_models["llama"], jnp.float32)
  a, b, c = (hf.init(config, seed, jnp.float32) for seed in (0, 0, 1))
  np.testing.assert_array_equal(a.blocks.q[...], b.blocks.q[...])
  assert np.any(a.blocks.q[...] != c.blocks.q[...])
  assert np.any(a.blocks.q[...][0] != a.blocks.q[...][1])
  assert np.std(a.blocks.q[...]) == pytest.approx(0.02, rel=0.1)
