"""Reads the config.json of a Hugging Face model into a DecoderConfig.

Llama, Qwen2 and Qwen3 are one decoder with a few switches. A config that asks
for anything else is refused here, before any weight is read. Defaults are
those of the configuration classes of transformers 5.19 (models/*/
configuration_*.py), for keys that old files leave out.
"""

import dataclasses
import os
from typing import Any

from atlas_jax import files
from atlas_jax.errors import AtlasError

_SHARED = {
  "num_key_value_heads": None,
  "head_dim": None,
  "tie_word_embeddings": False,
  "initializer_range": 0.02,
  "attention_dropout": 0.0,
  "rope_theta": None,
  "rope_scaling": None,
  "rope_parameters": None,
  "partial_rotary_factor": 1.0,
  "architectures": None,
  "quantization_config": None,
}
_SLIDING = {
  "use_sliding_window": False,
  "sliding_window": 4096,
  "max_window_layers": 28,
  "layer_types": None,
}
# model_type -> the keys that transformers reads, with its defaults
FAMILIES: dict[str, dict[str, Any]] = {
  "llama": {**_SHARED, "attention_bias": False, "mlp_bias": False},
  "qwen2": {**_SHARED, **_SLIDING},
  "qwen3": {**_SHARED, **_SLIDING, "head_dim": 128, "attention_bias": False},
}
# The largest value of each size; no model comes near. Memory is reserved by
# these sizes before the weights could contradict them.
_LARGEST = {
  "vocab_size": 1 << 22,
  "hidden_size": 1 << 16,
  "intermediate_size": 1 << 20,
  "num_hidden_layers": 1 << 10,
  "num_attention_heads": 1 << 10,
  "max_position_embeddings": 1 << 30,
  "num_key_value_heads": 1 << 10,
  "head_dim": 1 << 13,
}
_REQUIRED = (*list(_LARGEST)[:6], "rms_norm_eps", "hidden_act")


class ArchitectureError(AtlasError):
  """A config.json of a model that the decoder cannot compute exactly."""


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Rotary frequency scaling of Llama 3.1 (rope_type "llama3")."""

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_max_positions: int


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and switches of a decoder; it is hashable, so static under jit."""

  vocab_size: int
  d_model: int
  d_ffw: int
  n_layers: int
  n_heads: int
  n_kv_heads: int
  head_dim: int
  norm_eps: float
  rope_theta: float
  rope_scaling: RopeScaling | None
  tied: bool  # the output head is the embedding
  attention_bias: bool  # on the q, k and v projections
  o_bias: bool
  mlp_bias: bool
  qk_norm: bool  # RMSNorm on each head's q and k, before the rotation
  initializer_range: float  # standard deviation of freshly drawn matrices

  @classmethod
  def from_hf(cls, hf: dict[str, Any]) -> "DecoderConfig":
    """The decoder that a config.json describes.

    The rotary settings are read as transformers reads them: `rope_parameters`
    (version 5), or `rope_theta` with `rope_scaling` (before).

    Raises:
      ArchitectureError: a missing key, or a value that is not supported; the
        message names the key, its value, and what is valid.
    """
    family = hf.get("model_type")
    if family not in list(FAMILIES):  # it may be anything, also a list
      value = repr(family) if "model_type" in hf else "(missing)"
      raise _unsupported("model_type", value, ", ".join(FAMILIES))
    for key in _REQUIRED:
      if key not in hf:
        raise ArchitectureError(f"config.json: the key {key!r} is missing")
    hf = {**FAMILIES[family], **hf}
    _check_kinds(hf)
    _check_supported(hf)

    n_heads = hf["num_attention_heads"]
    n_kv_heads = hf["num_key_value_heads"] or n_heads
    if n_heads % n_kv_heads:
      raise _unsupported(
        "num_key_value_heads",
        n_kv_heads,
        f"a divisor of num_attention_heads={n_heads}",
      )
    head_dim = hf["head_dim"] or hf["hidden_size"] // n_heads
    if head_dim % 2 or not head_dim:
      raise _unsupported("head_dim", head_dim, "an even number above 0")
    theta, scaling = _rope(hf)
    bias = family == "qwen2" or hf["attention_bias"]
    return cls(
      vocab_size=hf["vocab_size"],
      d_model=hf["hidden_size"],
      d_ffw=hf["intermediate_size"],
      n_layers=hf["num_hidden_layers"],
      n_heads=n_heads,
      n_kv_heads=n_kv_heads,
      head_dim=head_dim,
      norm_eps=float(hf["rms_norm_eps"]),
      rope_theta=theta,
      rope_scaling=scaling,
      tied=hf["tie_word_embeddings"],
      attention_bias=bias,
      o_bias=bias and family != "qwen2",
      mlp_bias=family == "llama" and hf["mlp_bias"],
      qk_norm=family == "qwen3",
      initializer_range=hf["initializer_range"],
    )


def read_config(path: str | os.PathLike) -> dict[str, Any]:
  """The content of config.json of a model directory.

  A null rope_theta in rope_parameters, which no other reader takes, is filled
  in; all else is as it is written.

  Raises:
    ArchitectureError: no such file, not a JSON object, or no decoder of ours.
    FileError: a file of the directory lies outside of it.
  """
  file = os.path.join(path, "config.json")
  if not os.path.lexists(file):
    raise ArchitectureError(f"no config.json in {path}")
  files.check_directory(path)
  config = files.read_json(file, ArchitectureError)
  try:
    theta = DecoderConfig.from_hf(config).rope_theta
  except ArchitectureError as error:
    raise ArchitectureError(f"{path}: {error}") from None
  rope = config.get("rope_parameters")
  if rope and rope.get("rope_theta", theta) is None:
    config["rope_parameters"] = {**rope, "rope_theta": theta}
  return config


def _unsupported(key: str, value: Any, valid: str) -> ArchitectureError:
  return ArchitectureError(
    f"config.json: {key}={str(value)[:200]} is not supported; valid: {valid}"
  )


def _check_kinds(hf: dict[str, Any]) -> None:
  """Refuses a value that is no size, number or switch."""
  for key, most in _LARGEST.items():
    if hf[key] is not None or key in _REQUIRED:
      _size(key, hf[key], most)
  for key in ("rms_norm_eps", "initializer_range"):
    _positive(key, hf[key])
  for key, default in FAMILIES[hf["model_type"]].items():
    if type(default) is bool and type(hf[key]) is not bool:
      raise _unsupported(key, repr(hf[key]), "true, false")


def _size(key: str, value: Any, most: int) -> int:
  if type(value) is not int or not 0 < value <= most:
    raise _unsupported(key, repr(value), f"an integer from 1 to {most}")
  return value


def _positive(key: str, value: Any) -> float:
  if type(value) not in (int, float) or not 0 < value < 1e12:
    raise _unsupported(key, repr(value), "a number above 0")
  return float(value)


def _check_supported(hf: dict[str, Any]) -> None:
  """Refuses a setting that would change the output and is not built."""
  family = hf["model_type"]
  for key, valid in {
    "architectures": ([f"{family.capitalize()}ForCausalLM"], None),
    "hidden_act": ("silu",),
    "attention_dropout": (0.0, None),
    "quantization_config": (None, {}),
  }.items():
    if hf[key] not in valid:
      raise _unsupported(key, repr(hf[key]), repr(valid[0]))
  if family == "llama":
    return
  kinds = hf["layer_types"]
  if kinds is not None:
    if not isinstance(kinds, list) or set(map(str, kinds)) - {"full_attention"}:
      raise _unsupported("layer_types", kinds, "'full_attention' alone")
  elif hf["use_sliding_window"] and hf["sliding_window"] is not None:
    first = hf["max_window_layers"]  # the first layer with a window
    if type(first) is not int or first < hf["num_hidden_layers"]:
      raise _unsupported("use_sliding_window", True, "false")


def _rope(hf: dict[str, Any]) -> tuple[float, RopeScaling | None]:
  """(theta, scaling) of rope_parameters, or of the older rope_scaling."""
  # As transformers has it: the older key first, and in it the newer type.
  where = "rope_scaling" if hf["rope_scaling"] else "rope_parameters"
  given = hf[where] or {}
  if not isinstance(given, dict):
    raise _unsupported(where, given, "an object")
  thetas = (given.get("rope_theta"), hf["rope_theta"], 10000.0)
  theta = next(value for value in thetas if value is not None)
  theta = _positive("rope_theta", theta)
  kind = given.get("rope_type", given.get("type", "default"))
  partial = given.get("partial_rotary_factor", hf["partial_rotary_factor"])
  if partial not in (None, 1.0):
    raise _unsupported("partial_rotary_factor", partial, "1.0")
  for key, value in given.items():
    if isinstance(value, dict):
      raise _unsupported(f"{where}.{key}", value, "one rotation for all layers")
  if kind == "default":
    return theta, None
  if kind != "llama3":
    raise _unsupported(f"{where}.rope_type", repr(kind), "default, llama3")
  original = "original_max_position_embeddings"
  given = {original: hf["max_position_embeddings"], **given}
  fields = ("factor", "low_freq_factor", "high_freq_factor")
  for key in fields:
    if key not in given:
      raise ArchitectureError(
        f"config.json: {where} of type llama3 lacks the key {key!r}"
      )
  return theta, RopeScaling(
    *(_positive(f"{where}.{key}", given[key]) for key in fields),
    original_max_positions=_size(
      original, given[original], _LARGEST["max_position_embeddings"]
    ),
  )
