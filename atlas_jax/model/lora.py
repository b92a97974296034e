"""Adapted models: a frozen Decoder and what is trained beside it.

An adapted model is a Decoder in whose blocks an `Adapted` stands for each
target (PEFT's names: q_proj, gate_proj, ...). `split` takes one apart, `join`
puts it together again; neither copies an array.
"""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from atlas_jax import directory, files
from atlas_jax.config import LoraConfig, ModelConfig
from atlas_jax.model import hf
from atlas_jax.model.adapted import Adapted, Form, Pair
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.model.decoder import Block, Decoder, parameters
from atlas_jax.model.names import BLOCK_NAMES
from atlas_jax.sharding import place

# target -> (attribute of a Block, its place in the file, output axes)
_TARGETS = {
  path.split(".")[1]: (attribute, path.removesuffix(".weight"), groups[0])
  for attribute, (path, groups) in BLOCK_NAMES.items()
  if path.endswith("_proj.weight")
}


class Adapters(nnx.Module):
  """The Pair of each adapted weight, by its attribute in a Block."""

  def __init__(self, pairs: dict[str, Pair]):
    for name, pair in pairs.items():
      setattr(self, name, pair)

  def pairs(self) -> dict[str, Pair]:
    return {k: v for k, v in vars(self).items() if isinstance(v, Pair)}


def draw(config: DecoderConfig, options: LoraConfig, seed: int) -> Adapters:
  """New adapters, as PEFT draws them: A uniform within 1/sqrt(inputs), B zero.

  They are laid out as the weights are. Call it under jit.
  """
  declared, pairs = parameters(Block, config), {}
  layers, rank = config.n_layers, options.rank
  keys = jax.random.split(jax.random.key(seed), len(_TARGETS))
  keys = dict(zip(_TARGETS, keys, strict=True))
  for target in options.targets:
    name, _, n_out = _TARGETS[target]
    shape, axes = declared[name].shape, declared[name].axes
    bound = math.prod(shape[n_out:]) ** -0.5
    a = jax.random.uniform(
      keys[target], (layers, rank, *shape[n_out:]), minval=-bound, maxval=bound
    )
    b = jnp.zeros((layers, *shape[:n_out], rank))
    pairs[name] = Pair(
      place(a, None, None, *axes[n_out:]),
      place(b, None, *axes[:n_out], None),
      options.alpha / rank,
    )
  return Adapters(pairs)


def abstract(config: DecoderConfig, options: ModelConfig) -> Decoder:
  """The shapes, dtypes and shardings of a model, adapted if options say so."""
  base = hf.abstract(config, jnp.dtype(options.param_dtype))
  if options.lora.rank == 0:
    return base
  return join(base, jax.eval_shape(lambda: draw(config, options.lora, 0)))


def split(model: Decoder) -> tuple[Decoder | None, Decoder | Adapters]:
  """(what is frozen, what is trained); a plain model is trained as a whole."""
  parts = vars(model.blocks) if isinstance(model, Decoder) else {}
  adapted = {k: part for k, part in parts.items() if isinstance(part, Adapted)}
  if not adapted:
    return None, model
  base = jax.tree.map(lambda x: x, model)  # another object, its arrays
  for name, part in adapted.items():
    setattr(base.blocks, name, part.weight)
  return base, Adapters({name: part.pair for name, part in adapted.items()})


def join(
  base: Decoder | None, trained: Decoder | Adapters, form: Form = "merged"
) -> Decoder:
  """The model of a `split`, whose adapted weights compute in `form`."""
  if base is None:
    return trained
  model = jax.tree.map(lambda x: x, base)  # another object, its arrays
  for name, pair in trained.pairs().items():
    weight = getattr(base.blocks, name)
    setattr(model.blocks, name, Adapted(weight, pair, form))
  return model


def save_peft(
  path: pathlib.Path, adapters: Adapters, options: LoraConfig, base: str | None
) -> None:
  """Writes the adapters as a directory that PEFT loads. A collective.

  Names and settings as peft 0.21 writes them; one that is missing loads with
  no error and changes what the adapter does. base is a directory, or
  ORG/NAME@REVISION of the Hub; None: weights that are nowhere.
  """
  tensors, pairs = {}, adapters.pairs()
  for target in options.targets:
    name, where, n_out = _TARGETS[target]
    a, b = (place(x[...]) for x in (pairs[name].a, pairs[name].b))
    for layer in range(len(a)):
      prefix = f"base_model.model.model.layers.{layer}.{where}"
      tensors[f"{prefix}.lora_A.weight"] = _matrix(a[layer], 1)
      tensors[f"{prefix}.lora_B.weight"] = _matrix(b[layer], n_out)
  if jax.process_index() != 0:
    return
  path.mkdir(parents=True, exist_ok=True)
  with files.replacing(path / "adapter_model.safetensors") as file:
    file.write(safetensors.numpy.save(tensors, {"format": "pt"}))
  name, _, revision = (base or "").partition("@")
  config = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": name or None,
    "revision": revision or None,
    "r": options.rank,
    "lora_alpha": options.alpha,
    "target_modules": list(options.targets),
    "bias": "none",
    "fan_in_fan_out": False,
    "use_rslora": False,
    "lora_dropout": 0.0,
    "inference_mode": True,
  }
  directory.write_json(path / "adapter_config.json", config)


def _matrix(x: jax.Array, rows: int) -> np.ndarray:
  """[rows.., columns..] as a matrix on the host."""
  return np.asarray(x).reshape(math.prod(x.shape[:rows]), -1)
