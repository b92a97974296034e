"""Loads Hugging Face weights; `hf_save` exports them by the same name table.

Load and save read the same table, so a tensor that can be read can be written
back to the same bytes. Whatever is not in the table is refused: a tensor that
is unknown, missing, stored twice, or of another shape or kind stops the run.
"""

import contextlib
import functools
import os
import pathlib
import re
from typing import Any

import jax
import numpy as np
import safetensors
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import DTypeLike

from atlas_jax import files, multihost
from atlas_jax.model import rows
from atlas_jax.model.architecture import DecoderConfig, read_config
from atlas_jax.model.decoder import Decoder
from atlas_jax.model.hf_save import save  # noqa: F401 callers write hf.save
from atlas_jax.model.names import (
  DTYPES,
  INDEX,
  TOP_NAMES,
  WEIGHTS,
  Tensor,
  WeightsError,
  tensors,
)

# Computed from the config; old Llama files hold it as a tensor.
_DERIVED = "rotary_emb.inv_freq"
_SHARD = re.compile(r"[^/\0]+\.safetensors")


def init(config: DecoderConfig, seed: int, param_dtype: DTypeLike) -> Decoder:
  """A Decoder drawn at random, each parameter made in its layout."""
  return jax.jit(lambda: _decoder(config, seed, param_dtype))()


def abstract(config: DecoderConfig, param_dtype: DTypeLike) -> Decoder:
  """A Decoder of shapes, dtypes and shardings: no memory."""
  return jax.eval_shape(lambda: _decoder(config, 0, param_dtype))


def _decoder(config, seed, param_dtype):
  return Decoder(config, rngs=nnx.Rngs(seed), param_dtype=param_dtype)


def check(path: str | os.PathLike) -> DecoderConfig:
  """The architecture of a directory whose weights `load` would take.

  Names, shapes and dtypes are compared; the weights are not read. Raises as
  `load`.
  """
  with contextlib.ExitStack() as stack:
    return _opened(path, stack)[0]


def load(
  path: str | os.PathLike, param_dtype: DTypeLike
) -> tuple[DecoderConfig, Decoder]:
  """The model of a Hugging Face directory, on the current mesh.

  All hosts together read each byte once, and exchange what they have read: no
  host ever holds more than its own devices' part, and two of one parameter.
  What one host cannot read all refuse.

  Args:
    path: holds config.json and model.safetensors, or an index and its shards.
    param_dtype: of the parameters; files may be float32, bfloat16 or float16.

  Raises:
    ArchitectureError: config.json is missing or asks for something else.
    WeightsError: a tensor is missing, unknown, stored twice or mis-shaped.
    ShardingError: the mesh does not divide a size.
    HostsError: another host raised one of these.
  """
  with contextlib.ExitStack() as stack:
    config, stored = multihost.on_each(lambda: _opened(path, stack))
    model, table = abstract(config, param_dtype), tensors(config)
    layers: dict[str, list[Tensor]] = {}
    for t in table:
      layers.setdefault(t.attribute, []).append(t)
    for attribute, of_layers in layers.items():
      owner = model if of_layers[0].layer is None else model.blocks
      like = getattr(owner, attribute).get_value()
      setattr(owner, attribute, nnx.Param(_read(stored, of_layers, like)))
  return config, model


def _opened(path, stack: contextlib.ExitStack):
  """(the architecture, slice readers of its tensors), compared."""
  config = DecoderConfig.from_hf(read_config(path))
  stored = _open(path, stack)
  _check(stored, tensors(config), config, path)
  return config, stored


def _open(path, stack: contextlib.ExitStack) -> dict[str, Any]:
  """{name: slice reader} of every tensor stored under `path`."""
  path = pathlib.Path(path)
  index = path / INDEX
  listed = _listed(index) if index.exists() else {}
  names = set(listed.values()) or {f.name for f in path.glob("*.safetensors")}
  if not names:
    raise WeightsError(f"no {WEIGHTS} and no {INDEX} in {path}")
  stored: dict[str, Any] = {}
  home: dict[str, str] = {}
  for file in sorted(names):
    where = path / file
    if not where.exists():
      raise WeightsError(f"{index} names {file}, which is missing")
    try:
      with files.opened(where, WeightsError):
        opened = safetensors.safe_open(where, framework="np")
      reader = stack.enter_context(opened)
    except safetensors.SafetensorError as e:
      raise WeightsError(f"{where}: {e}") from None
    for name in reader.keys():  # noqa: SIM118 (not a dict)
      if name in home:
        raise WeightsError(
          f"{path}: tensor {name} is stored twice, in {home[name]} and {file}"
        )
      home[name] = file
      stored[name] = reader.get_slice(name)
  for name, file in listed.items():
    if home.get(name) != file:
      raise WeightsError(
        f"{index} places tensor {name} in {file}, but it is in"
        f" {home.get(name, 'no file')}"
      )
  return stored


def _listed(index: pathlib.Path) -> dict[str, str]:
  """{tensor: file} of an index; each file stands beside the index."""
  listed = files.read_json(index, WeightsError).get("weight_map")
  if not isinstance(listed, dict):
    raise WeightsError(f"{index}: the key 'weight_map' must be an object")
  for name, file in listed.items():
    if not isinstance(file, str) or not _SHARD.fullmatch(file):
      raise WeightsError(
        f"{index}: {name} is in {str(file)[:200]!r}; valid: the name of a"
        " .safetensors file in the same directory"
      )
  return listed


def _check(stored, table: list[Tensor], config: DecoderConfig, path) -> None:
  """Raises WeightsError where the tensors are not those of the table."""
  known = {t.name: t for t in table}
  head, embedding = TOP_NAMES["head"][0], TOP_NAMES["embedding"][0]
  missing = [name for name in known if name not in stored]
  if missing:
    raise WeightsError(f"{path}: missing {_list(missing)}")
  unknown = [n for n in stored if n not in known and not n.endswith(_DERIVED)]
  if config.tied and head in unknown:
    # Some tied checkpoints hold the embedding a second time, as the head.
    unknown.remove(head)
    if not np.array_equal(stored[head][:], stored[embedding][:]):
      raise WeightsError(
        f"{path}: config.json says tie_word_embeddings, but {head} differs"
        f" from {embedding}"
      )
  if unknown:
    raise WeightsError(f"{path}: unknown {_list(unknown)}")
  for name, t in known.items():
    shape = tuple(stored[name].get_shape())
    if shape != t.shape:
      raise WeightsError(
        f"{path}: tensor {name} has shape {list(shape)}, expected"
        f" {list(t.shape)}"
      )
    dtype = stored[name].get_dtype()
    if dtype not in DTYPES:
      raise WeightsError(
        f"{path}: tensor {name} is stored as {dtype}; valid:"
        f" {', '.join(DTYPES)}"
      )


def _list(names: list[str]) -> str:
  more = f" and {len(names) - 5} more" if len(names) > 5 else ""
  plural = "tensors" if len(names) > 1 else "tensor"
  return f"{plural} {', '.join(names[:5])}{more}"


def _read(stored, layers: list[Tensor], like: jax.ShapeDtypeStruct):
  """One parameter (stacked over its layers) from the files to the devices."""
  stacked = layers[0].layer is not None
  groups, way = layers[0].groups, ()
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  if isinstance(like.sharding, NamedSharding):
    of_rows = range(stacked, stacked + groups[0])
    first, *way = rows.layouts(like.shape, like.sharding.spec, of_rows)
    sharding = NamedSharding(jax.sharding.get_mesh(), first)
  kinds = {stored[t.name].get_dtype() for t in layers}
  as_stored = way and len(kinds) == 1
  dtype = np.dtype(DTYPES[kinds.pop()] if as_stored else like.dtype)

  @functools.cache
  def part(bounds):
    chosen = layers[slice(*bounds[0])] if stacked else layers
    own = bounds[stacked:]
    out = np.empty((len(chosen), *(stop - start for start, stop in own)), dtype)
    readers = [stored[t.name] for t in chosen]
    rows.read(readers, like.shape[stacked:], groups, out, own)
    return out if stacked else out[0]

  def callback(index):
    # One read serves every replica of a slice.
    out = part(
      tuple(s.indices(n)[:2] for s, n in zip(index, like.shape, strict=True))
    )
    # As bits: collectives of CPUs change some of bfloat16.
    return out.view(f"uint{8 * dtype.itemsize}") if way else out

  make = functools.partial(jax.make_array_from_callback, like.shape)
  x = multihost.on_each(lambda: make(sharding, callback))
  if way:
    x = rows.settle(x, tuple(way), dtype, like.dtype)
  return jax.block_until_ready(x)  # no host holds two of them as read
