"""What this process sends of a model: its own shards, and their checksums.

The checksum of a tensor is defined in third_party/atlas_vllm/checksum.py. Each
device sums over its own part; nothing is collected here from other devices.
"""

import collections
import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, DTypeLike, UInt32

from atlas_jax import sharding
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.model.decoder import Decoder
from atlas_jax.model.names import Tensor, tensors

AHEAD = 4  # tensors that are rounded and copied while one is used
_BOX_BYTES = 16 << 20  # compared and written at once
_BLOCK = 1 << 17  # elements whose terms are added up at once
_SEEDS = ((0x9E3779B9, 0x85EBCA6B), (0xC2B2AE35, 0x27D4EB2F))  # ROW, COLUMN


@dataclass(frozen=True)
class Owned:
  """Boxes of one tensor that are this process's to send; there may be none.

  Of the devices that hold a slice each is in turn the one that sends it.

  Attributes:
    name: of the tensor.
    sums: over the boxes, uint32 [2].
    boxes: each by the name of its entry in a file: `NAME[0:8,16:32]` of a
      tensor seen as [its first axis, all others]; `NAME` is all of it.
  """

  name: str
  sums: np.ndarray
  boxes: dict[str, np.ndarray]


def iter_owned(
  model: Decoder, config: DecoderConfig, dtype: DTypeLike
) -> Iterator[Owned]:
  """This process's part of every tensor, in the order of export.

  Rounded to `dtype` (to nearest even) on the devices, the next few while one
  is used. The arrays are the caller's: a later step that is given the model
  does not change them.
  """

  def begin(turn: int, t: Tensor) -> tuple:
    param = t.parameter(model)
    value, sums = _rounded(param, t.layer, jnp.dtype(dtype), t.groups[0])
    senders = _senders(value, turn)
    own = [s for s in value.addressable_shards if s.device in senders]
    for shard in own:
      shard.data.copy_to_host_async()
    return t, own, sums  # copies of other devices go

  begun = itertools.starmap(begin, enumerate(tensors(config)))
  return itertools.starmap(_owned, ahead(begun))


T = TypeVar("T")


def ahead(begun: Iterable[T], most: int = AHEAD) -> Iterator[T]:
  """Each of `begun`, while up to `most` behind it are under way."""
  waiting: collections.deque[T] = collections.deque()
  for one in begun:
    waiting.append(one)
    if len(waiting) > most:
      yield waiting.popleft()
  while waiting:
    yield waiting.popleft()


def rounded(param, layer, dtype: DTypeLike) -> jax.Array:
  """A parameter, or a layer of it, in `dtype`; for use under jit."""
  if layer is not None:
    param = jax.tree.map(lambda stacked: stacked[layer], param)
  value = param[...]  # of an adapted weight the merged one
  # Without a copy jit returns the parameter's own buffer.
  return jnp.copy(value) if value.dtype == dtype else value.astype(dtype)


def _senders(value: jax.Array, turn: int) -> set[jax.Device]:
  """The devices that send a slice each; on every process the same."""
  holders: dict[str, list[jax.Device]] = {}
  for device, at in value.sharding.devices_indices_map(value.shape).items():
    holders.setdefault(str(at), []).append(device)
  return {
    devices[(turn + i) % len(devices)]
    for i, devices in enumerate(holders.values())
  }


def _owned(t: Tensor, own: list, sums: jax.Array) -> Owned:
  devices = {shard.device for shard in own}
  total, boxes = np.zeros(2, np.uint32), {}
  for shard in sums.addressable_shards:
    if shard.device in devices:
      total += np.asarray(shard.data)[0]
  whole, n = (t.shape[0], math.prod(t.shape[1:])), t.groups[0]
  for shard in own:
    x, at = np.asarray(shard.data), [part.start or 0 for part in shard.index]
    # Of several axes that are one in the file only the first may be cut.
    row = at[0] * math.prod(x.shape[1:n])
    column = at[n] * math.prod(x.shape[n + 1 :]) if len(at) > n else 0
    matrix = x.reshape(math.prod(x.shape[:n]), -1)
    step = max(1, _BOX_BYTES // matrix[:1].nbytes)
    for part in np.split(matrix, range(step, len(matrix), step)):
      end, right = row + len(part), column + part.shape[1]
      name = f"{t.name}[{row}:{end},{column}:{right}]"
      is_whole = part.shape == whole
      boxes[t.name if is_whole else name] = (
        part.reshape(t.shape) if is_whole else part
      )
      row = end
  return Owned(t.name, total, boxes)


@functools.partial(jax.jit, static_argnames=("dtype", "n_rows"))
def _rounded(param, layer, dtype, n_rows):
  """(one tensor in `dtype`, the sums over each device's part [devices, 2]).

  Its first `n_rows` axes are one in the file.
  """
  value = rounded(param, layer, dtype)
  if not sharding.has_mesh():
    return value, _sums(value, n_rows, P())[None]
  spec = jax.typeof(value).sharding.spec
  of_devices = jax.shard_map(
    lambda part: _sums(part, n_rows, spec)[None],
    in_specs=spec,
    out_specs=P(sharding.AXES),
  )
  return value, of_devices(value)


def _sums(part: jax.Array, n_rows: int, spec: P) -> UInt32[Array, "2"]:
  """Over a device's part of an array that is cut as `spec` says.

  Block by block of rows: a CPU then keeps the terms in its cache, and adds
  them up as vectors, at six times the speed of one sum over everything.
  """
  bits = jax.lax.bitcast_convert_type(part, f"uint{8 * part.dtype.itemsize}")
  bits = bits.reshape(math.prod(part.shape[:n_rows]), -1)
  most = max(1, _BLOCK // bits.shape[1])
  rows = next(n for n in range(most, 0, -1) if len(bits) % n == 0)

  def keys(seed, axis, count):
    cut = spec[axis] if axis < len(spec) else None
    first = jax.lax.axis_index(cut) * count if cut else 0
    words = jnp.arange(count, dtype=jnp.uint32)
    return _scatter(words + jnp.uint32(first) + jnp.uint32(seed))

  of_rows = [keys(row, 0, len(bits)).reshape(-1, rows, 1) for row, _ in _SEEDS]
  of_columns = [keys(column, n_rows, bits.shape[1]) for _, column in _SEEDS]

  def add(totals, block):
    bits, *rows = block
    each = zip(totals, rows, of_columns, strict=True)
    return [total + _scatter(r + c ^ bits) for total, r, c in each], None

  blocks = bits.reshape(-1, rows, bits.shape[1])
  nothing = [jnp.zeros_like(blocks[0], jnp.uint32)] * 2
  totals, _ = jax.lax.scan(add, nothing, (blocks, *of_rows))
  return jnp.stack([total.sum(dtype=jnp.uint32) for total in totals])


def _scatter(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
  x ^= x >> 16
  x *= jnp.uint32(0x7FEB352D)
  x ^= x >> 15
  x *= jnp.uint32(0x846CA68B)
  return x ^ x >> 16
