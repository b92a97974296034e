import json

import pytest

from atlas_jax.model.architecture import (
  ArchitectureError,
  DecoderConfig,
  RopeScaling,
  read_config,
)
from tests.model.hf_configs import BASE, LLAMA3


def test_defaults_are_those_of_transformers():
  config = DecoderConfig.from_hf(BASE)
  assert (config.n_kv_heads, config.head_dim) == (4, 8)
  assert config.rope_theta == 10000.0
  assert not (config.tied or config.attention_bias or config.qk_norm)
  qwen3 = DecoderConfig.from_hf({**BASE, "model_type": "qwen3"})
  assert qwen3.head_dim == 128 and qwen3.qk_norm
  qwen2 = DecoderConfig.from_hf({**BASE, "model_type": "qwen2"})
  assert qwen2.attention_bias and not qwen2.o_bias


@pytest.mark.parametrize("kind", ["rope_type", "type"])
def test_both_spellings_of_rope_are_one_config(kind):
  new = {
    "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}
  }
  old = {"rope_theta": 5e5, "rope_scaling": {kind: "llama3", **LLAMA3}}
  a = DecoderConfig.from_hf({**BASE, **new})
  assert a == DecoderConfig.from_hf({**BASE, **old})
  assert a.rope_theta == 5e5
  assert a.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 16)


@pytest.mark.parametrize("key", [k for k in BASE if k != "model_type"])
def test_a_missing_key_is_named(key):
  hf = {k: v for k, v in BASE.items() if k != key}
  with pytest.raises(ArchitectureError, match=f"'{key}' is missing"):
    DecoderConfig.from_hf(hf)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_type": "mistral"}, "model_type='mistral'.*llama, qwen2, qwen3"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu'.*'silu'"),
    (
      {"architectures": ["LlamaForSequenceClassification"]},
      "architectures=.*LlamaForCausalLM",
    ),
    ({"attention_dropout": 0.1}, "attention_dropout=0.1.*0.0"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"num_key_value_heads": 3}, "num_key_value_heads=3.*divisor.*4"),
    ({"head_dim": 7}, "head_dim=7.*even"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling.rope_type='linear'"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "'yarn'.*default, llama3"),
    ({"rope_scaling": {"rope_type": "llama3"}}, "lacks the key 'factor'"),
    ({"rope_scaling": "linear"}, "rope_scaling=linear.*an object"),
    ({"rope_parameters": "default"}, "rope_parameters=default.*an object"),
    ({"rope_scaling": {"rope_type": None}}, "rope_type=None"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    ({"rope_parameters": {"full_attention": {"x": 1}}}, "full_attention"),
    (
      {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "max_window_layers": 1,
      },
      "use_sliding_window=True.*false",
    ),
    (
      {
        "model_type": "qwen3",
        "layer_types": ["full_attention", "sliding_attention"],
      },
      "layer_types.*sliding_attention",
    ),
  ],
)
def test_what_is_not_supported_is_refused(change, message):
  with pytest.raises(ArchitectureError, match=message):
    DecoderConfig.from_hf({**BASE, **change})


def test_no_model_type():
  with pytest.raises(ArchitectureError, match=r"model_type=\(missing\)"):
    DecoderConfig.from_hf({})


def test_a_window_that_no_layer_uses_is_accepted():
  DecoderConfig.from_hf(
    {
      **BASE,
      "model_type": "qwen2",
      "use_sliding_window": True,
      "max_window_layers": 2,
    }
  )


def test_read_config(tmp_path):
  with pytest.raises(ArchitectureError, match=r"no config\.json in"):
    read_config(tmp_path)
  (tmp_path / "config.json").write_text('{\n"a": 1,\n}')
  with pytest.raises(ArchitectureError, match=r"config\.json: .*JSON.* line 3"):
    read_config(tmp_path)
  (tmp_path / "config.json").write_text("[]")
  with pytest.raises(ArchitectureError, match="expected an object"):
    read_config(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(BASE))
  assert read_config(tmp_path) == BASE


SIZES = [
  *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
  *("num_attention_heads", "num_key_value_heads", "head_dim"),
  "max_position_embeddings",
]
NO_SIZES = [10**12, 10**4000, 0, -1, 2.0, 1e400, "2", True, [2], {}]


@pytest.mark.parametrize("key", SIZES)
def test_what_is_no_size_is_refused_with_its_key(key):
  for value in NO_SIZES:
    with pytest.raises(ArchitectureError, match=f"{key}=.*1 to") as error:
      DecoderConfig.from_hf({**BASE, key: value})
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
  ("change", "key"),
  [
    ({"num_hidden_layers": None}, "num_hidden_layers"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    ({"initializer_range": -1}, "initializer_range"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
    ({"attention_bias": 1}, "attention_bias"),
    ({"rope_theta": "x"}, "rope_theta"),
    ({"rope_scaling": [1]}, "rope_scaling"),
    ({"rope_scaling": {"type": ["llama3"]}}, "rope_type"),
    (
      {"rope_scaling": {"type": "llama3", **LLAMA3, "factor": "8"}},
      "rope_scaling.factor",
    ),
    (
      {
        "rope_scaling": {
          **{"type": "llama3", **LLAMA3},
          "original_max_position_embeddings": 0.5,
        }
      },
      "original_max_position_embeddings=0.5",
    ),
    ({"num_attention_heads": 64, "num_key_value_heads": 64}, "head_dim=0"),
    ({"model_type": ["llama"]}, "model_type"),
    ({"model_type": "x" * 10**6}, "model_type"),
    ({"model_type": "qwen2", "layer_types": 3}, "layer_types"),
    (
      {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "max_window_layers": "28",
      },
      "use_sliding_window",
    ),
  ],
)
def test_other_values_of_the_wrong_kind(change, key):
  with pytest.raises(ArchitectureError, match=key) as error:
    DecoderConfig.from_hf({**BASE, **change})
  assert len(str(error.value)) < 400


def test_the_directory_is_named_before_anything_is_built(tmp_path):
  huge = {**BASE, "num_hidden_layers": 10**9}
  (tmp_path / "config.json").write_text(json.dumps(huge))
  with pytest.raises(ArchitectureError) as error:
    read_config(tmp_path)
  assert str(error.value) == (
    f"{tmp_path}: config.json: num_hidden_layers=1000000000 is not supported;"
    " valid: an integer from 1 to 1024"
  )
