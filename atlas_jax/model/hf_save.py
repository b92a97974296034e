"""Exports a Decoder as a model directory of Hugging Face."""

import collections
import functools
import logging
import os
import pathlib
import secrets
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import DTypeLike

from atlas_jax import directory, files, multihost
from atlas_jax.model import owned, shards
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.model.decoder import Decoder
from atlas_jax.model.names import INDEX, WeightsError, tensors

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


@functools.partial(jax.jit, static_argnames="dtype")
def _rounded(param, layer, dtype):
  value = owned.rounded(param, layer, dtype)
  if jax.process_count() > 1:  # a host can only read what it holds itself
    value = jax.sharding.reshard(value, P())
  return value


@functools.partial(jax.jit, static_argnames="dtype")
def _layers(param, layers, dtype):
  one = functools.partial(owned.rounded, param, dtype=dtype)
  return jax.lax.map(one, layers)


def save(
  path: str | os.PathLike,
  model: Decoder,
  config: DecoderConfig,
  hf_config: dict[str, Any],
  *,
  source_dir: str | os.PathLike | None,
  dtype: DTypeLike,
) -> None:
  """Writes a directory that transformers and vLLM read. A collective.

  Weights are streamed tensor by tensor. Everything is written beside `path` and
  renamed at the end, so `path` is never half a model. An older model at `path`
  is replaced. Each process on the lead's disk writes a file of its own, then
  the lead writes the rest, the index last.

  Args:
    path: the directory to make.
    model: the parameters.
    config: what `model` was built from.
    hf_config: config.json of the model, from `read_config`.
    source_dir: where the tokenizer and generation_config files are copied
      from; None copies none.
    dtype: of the weights in the file: float32 or bfloat16.

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
  dtype = jnp.dtype(dtype)

  def make() -> str:
    is_model = (path / "config.json").exists()
    if path.is_dir() and os.listdir(path) and not is_model:
      raise WeightsError(f"{path} exists and is not a model directory")
    if source_dir is not None:
      files.check_directory(source_dir)
    # Not mkdtemp: the umask decides who may read the model.
    temp = path.with_name(f".saving-{secrets.token_hex(4)}")
    temp.mkdir(parents=True)
    return temp.name

  temp = path.with_name(multihost.call_on_lead(make))

  def finish() -> None:
    # The name of transformers 5, and the one before it.
    names = dict.fromkeys(("dtype", "torch_dtype"), dtype.name)
    directory.write_json(temp / "config.json", {**hf_config, **names})
    for name in _COMPANIONS if source_dir is not None else ():
      source = pathlib.Path(source_dir, name)
      if source.exists():
        shutil.copyfile(source, temp / name)
    if len(writers) > 1:
      directory.write_json(temp / INDEX, shards.index(rounds, dtype))
    _replace_directory(temp, path)

  try:
    # A host without the lead's disk, or to which it is slow, writes nothing.
    there = multihost.call_on_all(lambda: temp.is_dir() or multihost.is_lead())
    writers = np.flatnonzero(there).tolist()
    rounds = shards.plan(tensors(config), writers)
    _write_weights(temp, path, model, rounds, dtype)
    multihost.call_on_lead(finish)
  except BaseException:
    if multihost.is_lead():
      shutil.rmtree(temp, ignore_errors=True)
    raise
  logging.info("saved the model to %s in %s", path, dtype.name)


def _write_weights(
  temp: pathlib.Path,
  path: pathlib.Path,
  model: Decoder,
  rounds: Sequence[Sequence[shards.Part]],
  dtype: np.dtype,
) -> None:
  """Writes this process's tensors. A collective; raises where any failed."""
  me = jax.process_index()
  own = [part for of in rounds for part in of if part.writer == me]

  def begin(of: Sequence[shards.Part]) -> jax.Array:
    value = _sent(model, of, dtype)
    value.copy_to_host_async()
    return value

  sent = owned.ahead(map(begin, rounds))
  several = jax.process_count() > 1

  def write() -> None:
    try:
      with shards.writing(temp, own, dtype) as opened:
        for of, values in zip(rounds, sent, strict=True):
          for part in of:
            if part.writer == me:
              lone = len(of) == 1  # its shards may be anywhere
              value = values if lone else values.addressable_shards[0].data
              # A part of a tensor in the place of it does not pass.
              value = np.asarray(value).reshape(part.tensor.shape)
              _check_finite(path, part.tensor.name, value)
              opened[part.file].write(value.reshape(-1).view(np.uint8))
    finally:
      if several:  # the others are in these collectives
        collections.deque(sent, maxlen=0)

  multihost.call_on_all(write, hold=several)


def _sent(
  model: Decoder, parts: Sequence[shards.Part], dtype: np.dtype
) -> jax.Array:
  """The tensors of a round, each on its process; a lone one on all."""
  first = parts[0].tensor
  param = first.parameter(model)
  if len(parts) == 1:
    return _rounded(param, first.layer, dtype)
  of = {part.writer: part.tensor.layer for part in parts}
  layers = [of.get(i, first.layer) for i in range(jax.process_count())]
  devices = jax.sharding.get_mesh().devices.flatten()
  devices = sorted(devices, key=lambda device: device.process_index)
  hosts = Mesh(np.reshape(devices, (len(layers), -1)), ("host", "device"))
  return jax.device_put(
    _layers(param, np.array(layers), dtype), NamedSharding(hosts, P("host"))
  )


def _check_finite(path: pathlib.Path, name: str, value: np.ndarray) -> None:
  if not np.isfinite(value).all():
    raise WeightsError(
      f"{path} is not written: {name} has values that are NaN or infinite in"
      f" {value.dtype}, so nothing can be sampled from this model"
    )


def _replace_directory(new: pathlib.Path, path: pathlib.Path) -> None:
  """Renames `new` to `path`; an older `path` is removed afterwards."""
  old = new.with_name(f"{new.name}.old")
  replaces = path.is_dir()
  if replaces:
    path.rename(old)
  new.rename(path)
  if replaces:
    shutil.rmtree(old)
