"""Exports a Decoder: host arrays by Hugging Face name, or a model directory."""

import collections
import functools
import itertools
import json
import logging
import math
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from huggingface_hub import split_state_dict_into_shards_factory
from jax.sharding import PartitionSpec as P
from jaxtyping import DTypeLike

from atlas_jax import files
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.model.decoder import Decoder
from atlas_jax.model.names import INDEX, Tensor, WeightsError, tensors

_AHEAD = 4  # tensors that are rounded and copied while one is used
# The files of a model directory besides weights and config.json.
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

  Rounded to `dtype` (to nearest even) on the devices, the next few while one
  is used. The arrays are the caller's: a later step that is given the model
  does not change them. With several processes every process must run this loop
  to its end: each tensor is a collective.
  """
  ahead: collections.deque[tuple[Tensor, jax.Array]] = collections.deque()
  for t in tensors(config):
    owner = model if t.layer is None else model.blocks
    param = getattr(owner, t.attribute)
    value = _rounded(param, t.layer, jnp.dtype(dtype))
    value.copy_to_host_async()
    ahead.append((t, value))
    if len(ahead) > _AHEAD:
      yield _on_host(*ahead.popleft())
  while ahead:
    yield _on_host(*ahead.popleft())


def _on_host(t: Tensor, value: jax.Array) -> tuple[str, np.ndarray]:
  return t.name, np.asarray(value).reshape(t.shape)


@functools.partial(jax.jit, static_argnames="dtype")
def _rounded(param, layer, dtype):
  if layer is not None:
    param = jax.tree.map(lambda stacked: stacked[layer], param)
  value = param[...]  # of an adapted weight the merged one
  # Without a copy jit returns the parameter's own buffer.
  value = jnp.copy(value) if value.dtype == dtype else value.astype(dtype)
  if jax.process_count() > 1:  # a host can only read what it holds itself
    value = jax.sharding.reshard(value, P())
  return value


def export_tensors(
  model: Decoder, config: DecoderConfig, dtype: DTypeLike
) -> dict[str, np.ndarray]:
  """`iter_tensors` as a dict: the whole model in host memory."""
  return dict(iter_tensors(model, config, dtype))


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
    max_shard_bytes: of one file, or as much as the largest tensor.

  Raises:
    FileError: something in source_dir lies outside of it.
    WeightsError: `hf_config` describes another model, or `path` is source_dir
      or a directory that is not a model.
  """
  if DecoderConfig.from_hf(hf_config) != config:
    raise WeightsError("hf_config describes another model than `config`")
  path = pathlib.Path(os.path.realpath(path))
  if source_dir is not None and os.path.realpath(source_dir) == str(path):
    raise WeightsError(f"{path} is the model's own source directory")
  is_model = (path / "config.json").exists()
  if path.is_dir() and os.listdir(path) and not is_model:
    raise WeightsError(f"{path} exists and is not a model directory")
  dtype = jnp.dtype(dtype)
  stream = _finite(iter_tensors(model, config, dtype), path)
  if jax.process_index() != 0:
    collections.deque(stream, maxlen=0)  # takes part in every collective
    return
  if source_dir is not None:
    files.check_directory(source_dir)
  # Not mkdtemp: the umask decides who may read the model.
  temp = path.with_name(f".saving-{secrets.token_hex(4)}")
  temp.mkdir(parents=True)
  try:
    _write_weights(temp, stream, config, dtype, max_shard_bytes)
    # The name of transformers 5, and the one before it.
    names = dict.fromkeys(("dtype", "torch_dtype"), dtype.name)
    _write_json(temp / "config.json", {**hf_config, **names})
    for name in _COMPANIONS if source_dir is not None else ():
      source = pathlib.Path(source_dir, name)
      if source.exists():
        (temp / name).write_bytes(files.read(source))
    _replace_directory(temp, path)
  except BaseException:
    shutil.rmtree(temp, ignore_errors=True)
    raise
  logging.info("saved the model to %s in %s", path, dtype.name)


def _finite(stream, path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
  """The tensors of `stream`; NaN or infinity raises WeightsError."""
  for name, value in stream:
    if not np.isfinite(value).all():
      raise WeightsError(
        f"{path} is not written: {name} has values that are NaN or infinite in"
        f" {value.dtype}, so nothing can be sampled from this model"
      )
    yield name, value


def _write_weights(
  directory: pathlib.Path,
  stream: Iterator[tuple[str, np.ndarray]],
  config: DecoderConfig,
  dtype: np.dtype,
  max_bytes: int,
) -> None:
  """Writes the tensors of `stream` to shards of at most max_bytes each."""
  sizes = {t.name: math.prod(t.shape) * dtype.itemsize for t in tensors(config)}
  shards = split_state_dict_into_shards_factory(
    sizes,
    get_storage_size=lambda size: size,
    filename_pattern="model{suffix}.safetensors",
    # A tensor above the bound would come out of the order of the stream.
    max_shard_size=max(max_bytes, *sizes.values()),
  )
  for file, names in shards.filename_to_tensors.items():
    held = dict(itertools.islice(stream, len(names)))
    # transformers reads a file only if it says which framework wrote it.
    path = directory / file
    safetensors.numpy.save_file(held, path, metadata={"format": "pt"})
    # safetensors hides what it writes; by the umask, as the directory was made.
    path.chmod(directory.stat().st_mode & 0o666)
  if shards.is_sharded:
    weight_map = shards.tensor_to_filename
    index = {"metadata": shards.metadata, "weight_map": weight_map}
    _write_json(directory / INDEX, index)


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _replace_directory(new: pathlib.Path, path: pathlib.Path) -> None:
  """Renames `new` to `path`; an older `path` is removed afterwards."""
  old = new.with_name(f"{new.name}.old")
  replaces = path.is_dir()
  if replaces:
    path.rename(old)
  new.rename(path)
  if replaces:
    shutil.rmtree(old)
