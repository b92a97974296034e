"""Hugging Face weights out: host arrays by name, and model directories."""

import functools
import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.sharding import PartitionSpec as P
from jaxtyping import DTypeLike

from atlas_jax import files
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.model.decoder import Decoder
from atlas_jax.model.names import INDEX, WEIGHTS, Tensor, WeightsError, tensors

# What an exported model needs besides weights and config.json.
_COMPANIONS = (
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "tokenizer.model",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "vocab.json",
  "merges.txt",
)


def iter_tensors(
  model: Decoder, config: DecoderConfig, dtype: DTypeLike
) -> Iterator[tuple[str, np.ndarray]]:
  """(name, host array) of every tensor, one at a time, in a fixed order.

  Rounded to `dtype` (to nearest even) on the devices. With several processes
  every process must run this loop to its end: each step is a collective.
  """
  for t in tensors(config):
    owner = model if t.layer is None else model.blocks
    value = getattr(owner, t.attribute)[...]
    layer = None if t.layer is None else jnp.int32(t.layer)
    value = _take(value, layer, jnp.dtype(dtype))
    yield t.name, np.asarray(value).reshape(t.shape)


@functools.partial(jax.jit, static_argnames="dtype")
def _take(stacked, layer, dtype):
  value = stacked if layer is None else stacked[layer]
  value = value.astype(dtype)
  if jax.process_count() > 1:  # a host can only read what it holds itself
    value = jax.sharding.reshard(value, P())
  return value


def export_tensors(
  model: Decoder, config: DecoderConfig, dtype: DTypeLike
) -> dict[str, np.ndarray]:
  """`iter_tensors` as a dict: the whole model in host memory.

  The arrays are the caller's: a later step that is given the model does not
  change them.
  """
  if jax.process_count() > 1:
    return dict(iter_tensors(model, config, dtype))
  # All layers of a parameter in one transfer, the next being rounded meanwhile.
  table = tensors(config)
  on_device = {}
  for t in table:
    if t.attribute not in on_device:
      owner = model if t.layer is None else model.blocks
      value = getattr(owner, t.attribute)[...]
      on_device[t.attribute] = _round(value, jnp.dtype(dtype))
      on_device[t.attribute].copy_to_host_async()
  on_host = {name: np.asarray(value) for name, value in on_device.items()}
  out = {}
  for t in table:
    value = on_host[t.attribute]
    out[t.name] = (value if t.layer is None else value[t.layer]).reshape(
      t.shape
    )
  return out


@functools.partial(jax.jit, static_argnames="dtype")
def _round(value, dtype):
  if value.dtype == dtype:  # else jit hands on the parameter's own buffer
    return jnp.copy(value)
  return value.astype(dtype)


def save(
  path: str | os.PathLike,
  model: Decoder,
  config: DecoderConfig,
  hf_config: dict[str, Any],
  *,
  source_dir: str | os.PathLike | None,
  dtype: DTypeLike,
  max_shard_bytes: int = 5 << 30,
) -> None:
  """Writes a directory that transformers and vLLM read.

  Weights are streamed shard by shard. Everything is written beside `path` and
  renamed at the end, so `path` is never half a model. An older model at `path`
  is replaced. With several processes all must call this; the lead writes.

  Args:
    path: the directory to make.
    model: the parameters.
    config: what `model` was built from.
    hf_config: config.json of the model, from `read_config`.
    source_dir: where the tokenizer and generation_config files are copied
      from; None copies none.
    dtype: of the weights in the file: float32 or bfloat16.
    max_shard_bytes: a file holds at most this much, or one tensor.

  Raises:
    FileError: something in source_dir lies outside of it.
    WeightsError: `hf_config` describes another model, or `path` is source_dir
      or a directory that is not a model.
  """
  if DecoderConfig.from_hf(hf_config) != config:
    raise WeightsError("hf_config describes another model than `config`")
  path = os.path.realpath(path)
  lead = jax.process_index() == 0
  if source_dir is not None and os.path.realpath(source_dir) == path:
    raise WeightsError(f"{path} is the model's own source directory")
  is_model = os.path.exists(os.path.join(path, "config.json"))
  if os.path.isdir(path) and os.listdir(path) and not is_model:
    raise WeightsError(f"{path} exists and is not a model directory")
  dtype = jnp.dtype(dtype)
  if not lead:
    for name, value in iter_tensors(model, config, dtype):
      _check_finite(path, name, value)
    return
  if source_dir is not None:
    files.check_directory(source_dir)
  # Not mkdtemp: who may read the model is for the umask to say.
  temp = f"{os.path.dirname(path)}/.saving-{secrets.token_hex(4)}"
  os.makedirs(temp)
  try:
    _write_weights(temp, model, config, dtype, max_shard_bytes)
    # The name of transformers 5, and the one before it.
    names = dict.fromkeys(("dtype", "torch_dtype"), dtype.name)
    _write_json(os.path.join(temp, "config.json"), {**hf_config, **names})
    for name in _COMPANIONS if source_dir is not None else ():
      source = os.path.join(source_dir, name)
      if os.path.exists(source):
        with open(os.path.join(temp, name), "xb") as f:
          f.write(files.read(source))
    _replace_directory(temp, path)
  except BaseException:
    shutil.rmtree(temp, ignore_errors=True)
    raise
  logging.info("saved the model to %s in %s", path, dtype.name)


def _write_weights(directory, model, config, dtype, max_shard_bytes) -> None:
  shards: list[list[Tensor]] = [[]]
  size = 0
  for t in tensors(config):
    nbytes = math.prod(t.shape) * dtype.itemsize
    if shards[-1] and size + nbytes > max_shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(t)
    size += nbytes
  stream = iter_tensors(model, config, dtype)
  total, weight_map = 0, {}
  for i, shard in enumerate(shards):
    file = WEIGHTS
    if len(shards) > 1:
      file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
    held = dict(next(stream) for _ in shard)
    for name, value in held.items():
      _check_finite(directory, name, value)
    weight_map |= dict.fromkeys(held, file)
    total += sum(x.nbytes for x in held.values())
    # transformers reads a file only if it says which framework wrote it.
    path = os.path.join(directory, file)
    safetensors.numpy.save_file(held, path, metadata={"format": "pt"})
    # safetensors hides what it writes; by the umask, as the directory was made.
    os.chmod(path, os.stat(directory).st_mode & 0o666)
  if len(shards) > 1:
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(os.path.join(directory, INDEX), index)


def _check_finite(path: str, name: str, value: np.ndarray) -> None:
  if not np.isfinite(value).all():
    raise WeightsError(
      f"{path} is not written: {name} has values that are NaN or infinite in"
      f" {value.dtype}, so nothing can be sampled from this model"
    )


def _write_json(path: str, value: Any) -> None:
  with open(path, "w", encoding="utf-8") as f:
    json.dump(value, f, indent=2)
    f.write("\n")


def _replace_directory(new: str, path: str) -> None:
  """Renames `new` to `path`; what was at `path` is removed afterwards."""
  old = None
  if os.path.isdir(path):
    old = f"{new}.old"
    os.rename(path, old)
  os.rename(new, path)
  if old is not None:
    shutil.rmtree(old)
