"""Spellings of a config.json: read as transformers reads them."""

import json

import pytest
import transformers

from atlas_jax.model.architecture import (
  ArchitectureError,
  DecoderConfig,
  read_config,
)
from tests import published
from tests.model.hf_configs import BASE, LLAMA3

LLAMA3_ROPE = {"rope_type": "llama3", **LLAMA3}
NO_ORIGINAL = {k: v for k, v in LLAMA3_ROPE.items() if "original" not in k}


def theirs(path):
  return transformers.AutoConfig.from_pretrained(path)


def same(path) -> DecoderConfig:
  """Ours, after a comparison with transformers' own class."""
  ours, config = DecoderConfig.from_hf(read_config(path)), theirs(path)
  rope = config.rope_parameters
  assert ours.rope_theta == rope["rope_theta"]
  assert (ours.rope_scaling is None) == (rope["rope_type"] == "default")
  if ours.rope_scaling is not None:
    assert ours.rope_scaling.factor == rope["factor"]
    original = rope["original_max_position_embeddings"]
    assert ours.rope_scaling.original_max_positions == original
  for name, key in {
    "vocab_size": "vocab_size",
    "head_dim": "head_dim",
    "n_kv_heads": "num_key_value_heads",
    "tied": "tie_word_embeddings",
    "norm_eps": "rms_norm_eps",
  }.items():
    if hasattr(config, key):
      assert getattr(ours, name) == getattr(config, key), key
  return ours


@pytest.mark.parametrize("family", published.FAMILIES)
def test_families_as_they_are_published(tmp_path, family):
  same(published.write(tmp_path / "model", family))


@pytest.mark.parametrize(
  "change",
  [
    {"rope_parameters": {"rope_type": "default"}, "rope_theta": 5e5},
    {"rope_parameters": {"rope_theta": 2e5}, "rope_theta": 5e5},
    {"rope_parameters": None, "rope_theta": 5e5},
    {"rope_parameters": {}, "rope_theta": 5e5},
    {"rope_theta": 500000},
    {"rope_scaling": None},
    {"rope_scaling": {}},
    {"rope_scaling": {"type": "default"}},
    {"rope_scaling": {"type": "llama3", **LLAMA3}},
    {"rope_scaling": {"type": "default", **LLAMA3_ROPE}},
    {"rope_scaling": {"type": "llama3", "rope_type": "default"}},
    {"rope_scaling": NO_ORIGINAL},
    {"rope_parameters": NO_ORIGINAL},
    {
      "rope_scaling": LLAMA3_ROPE,
      "rope_parameters": {"rope_theta": 3e5, "rope_type": "default"},
    },
    {
      "rope_scaling": {"rope_type": "default"},
      "rope_parameters": {"rope_theta": 3e5, **LLAMA3_ROPE},
    },
    {"partial_rotary_factor": None},
    {"attention_dropout": None},
    {"quantization_config": {}},
    {"head_dim": None, "num_key_value_heads": None},
    {"eos_token_id": [2, 3]},
    {"eos_token_id": None},
    {"dtype": "bfloat16", "torch_dtype": "float32"},
  ],
)
def test_a_spelling(tmp_path, change):
  (tmp_path / "config.json").write_text(json.dumps({**BASE, **change}))
  same(tmp_path)


@pytest.mark.parametrize(
  ("change", "theta"),
  [
    ({"rope_theta": 5e5}, 5e5),
    ({"rope_theta": None}, 1e4),
    ({}, 1e4),
  ],
)
def test_a_null_theta_is_the_one_beside_it_and_is_written_so(
  tmp_path, change, theta
):
  # transformers keeps the null, with which no model of it can be made.
  rope = {"rope_theta": None, "rope_type": "default"}
  config = {**BASE, "rope_parameters": rope, **change}
  (tmp_path / "config.json").write_text(json.dumps(config))
  read = read_config(tmp_path)
  assert DecoderConfig.from_hf(read).rope_theta == theta
  assert read["rope_parameters"] == {**rope, "rope_theta": theta}
  (tmp_path / "config.json").write_text(json.dumps(read))
  same(tmp_path)


@pytest.mark.parametrize(
  "change",
  [
    {"rope_scaling": "linear"},
    {"rope_scaling": "default"},
    {"rope_parameters": [1]},
    {"tie_word_embeddings": None},
    {"vocab_size": "64"},
    {"rms_norm_eps": "1e-5"},
  ],
)
def test_what_transformers_refuses_is_one_line(tmp_path, change):
  (tmp_path / "config.json").write_text(json.dumps({**BASE, **change}))
  with pytest.raises(ArchitectureError) as error:
    read_config(tmp_path)
  assert "\n" not in str(error.value)
  assert next(iter(change)) in str(error.value)
  with pytest.raises(Exception, match=r"."):
    theirs(tmp_path)
