"""The device mesh, the one table of logical axis rules, and batches on it.

Mesh axes: `data` (replicas; the slow network), `fsdp` (the batch, and each
weight's slices), `tensor` (heads, feed-forward, vocabulary), `context`
(tokens of a row, and each weight's slices again). All are Explicit: a sharding
is part of an array's type, so an operation whose layout is unclear fails at
trace time. A model's forward pass is one shard_map, written for one device.

Code names logical axes; only RULES knows the mesh. Every function that takes
logical names works with no mesh set too (one device, nothing to place).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from atlas_jax.config import MeshConfig
from atlas_jax.errors import AtlasError

AXES = ("data", "fsdp", "tensor", "context")

# logical axis -> the mesh axes that cut it, outermost first
RULES: dict[str, tuple[str, ...]] = {
  "batch": ("data", "fsdp"),
  "tokens": ("context",),
  # Of a weight; the D of activations is never cut.
  "embed": ("fsdp", "context"),
  "vocab": ("tensor",),
  "kv_heads": ("tensor",),
  "ffw": ("tensor",),
}

# Over a cube of 2 x 2 x 2 chips their compiler makes an all-reduce of a
# reduce-scatter. Sending each chip its parts is half of that, and their sum is
# in float32.
_CUBES = ("TPU v4", "TPU v5", "TPU v5p")
# Over both axes of a torus it does the same; fewer chips are one ring. One axis
# after the other sends half, over half of the links: by arithmetic as long, if
# the compiler's rings go both ways.
_TORI, _RING = ("TPU v5 lite", "TPU v5e", "TPU v6 lite", "TPU v6e"), 8


class ShardingError(AtlasError):
  """A mesh, a logical axis or a shape that does not fit the others."""


def make_mesh(
  config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """The Explicit mesh over `devices` (default: every device of every host).

  Raises:
    ShardingError: more than one axis is -1, an axis is 0, or the axes do not
      multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = {axis: getattr(config, axis) for axis in AXES}
  shown = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
  free = [axis for axis, size in sizes.items() if size == -1]
  fixed = math.prod(size for size in sizes.values() if size != -1)
  if len(free) == 1 and fixed > 0:
    sizes[free[0]] = len(devices) // fixed
  if min(sizes.values()) < 1 or math.prod(sizes.values()) != len(devices):
    raise ShardingError(
      f"config.mesh ({shown}) does not divide the {len(devices)} devices"
      f" exactly: the axes must multiply to {len(devices)}, each at least 1;"
      " only one axis may be -1, for what is left"
    )
  return jax.make_mesh(
    tuple(sizes.values()),
    AXES,
    axis_types=(AxisType.Explicit,) * len(AXES),
    devices=devices,
  )


def spec(*names: str | None) -> P:
  """The PartitionSpec of an array whose axes have these logical names.

  None is an axis that is never cut.

  Raises:
    ShardingError: an unknown name, or two axes that need one mesh axis.
  """
  used: dict[str, str] = {}
  parts: list[Any] = []
  for name in names:
    if name is None:
      parts.append(None)
      continue
    if name not in RULES:
      raise ShardingError(
        f"unknown logical axis {name!r}; valid: {', '.join(RULES)}, None"
      )
    for axis in RULES[name]:
      if axis in used:
        raise ShardingError(
          f"axes {used[axis]!r} and {name!r} of one array both need the mesh"
          f" axis {axis!r}"
        )
      used[axis] = name
    axes = RULES[name]
    parts.append(axes if len(axes) > 1 else axes[0])
  return P(*parts)


def has_mesh() -> bool:
  """True inside `jax.set_mesh(mesh)`."""
  return not jax.sharding.get_abstract_mesh().empty


def layout(*names: str | None) -> P | None:
  """`spec(*names)` for an `out_sharding` argument; None without a mesh."""
  return spec(*names) if has_mesh() else None


def place(x: jax.Array, *names: str | None) -> jax.Array:
  """`x` moved to the layout of `names`; `x` itself without a mesh."""
  return jax.sharding.reshard(x, spec(*names)) if has_mesh() else x


# Inside jax.shard_map: what one device does with the parts of the others. With
# no mesh an array is whole, no axis cuts it, and these give it back.


def axes_of(name: str) -> tuple[str, ...]:
  """The axes of the mesh that cut the logical axis `name`."""
  return RULES[name] if has_mesh() else ()


def varying(x: jax.Array) -> jax.Array:
  """`x` as an array that may differ on every device.

  Gradients of an array that is equal on some devices are added up over them
  where it becomes varying: call this where adding costs least.
  """
  known = jax.typeof(x).manual_axis_type.varying
  names = jax.sharding.get_abstract_mesh().axis_names
  rest = tuple(axis for axis in names if axis not in known)
  return jax.lax.pcast(x, rest, to="varying")


def gather(x: jax.Array, name: str, axis: int) -> jax.Array:
  """`x` with all parts of `axis`, which is cut as the logical `name` says.

  Its gradient is added up and cut again, never added up whole.
  """
  return _gather(varying(x), name, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x, name, axis):
  return jax.lax.all_gather(x, axes_of(name), axis=axis, tiled=True)


_gather.defvjp(
  lambda x, *how: (_gather(x, *how), None),
  lambda name, axis, _, gradient: (add_up_and_cut(gradient, name, axis),),
)


def add_up_and_cut(x: jax.Array, name: str, axis: int) -> jax.Array:
  """This device's part of the sum of `x`: what `gather` has as its gradient."""
  x, axes, size = varying(x), axes_of(name), axis_size(name)
  mesh = jax.sharding.get_abstract_mesh()
  kind = mesh.abstract_device.device_kind if size > 1 else None
  if size == 8 and kind in _CUBES:
    parts = jax.lax.all_to_all(x, axes, axis, axis, tiled=True)
    parts = parts.reshape(*x.shape[:axis], 8, -1, *x.shape[axis + 1 :])
    return jnp.sum(parts, axis, dtype=jnp.float32).astype(x.dtype)
  if size > _RING and kind in _TORI and mesh.shape[axes[0]] == size:
    rows = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0)
    chips = np.arange(size).reshape(rows, -1)
    parts = x.reshape(*x.shape[:axis], *chips.shape, -1, *x.shape[axis + 1 :])
    # An axis of parts that is not the first would give all-reduces again.
    parts = jnp.moveaxis(parts, (axis, axis + 1), (0, 1))
    for groups in (chips.T.tolist(), chips.tolist()):
      parts = jax.lax.psum_scatter(parts, axes[0], axis_index_groups=groups)
    return parts
  return jax.lax.psum_scatter(x, axes, scatter_dimension=axis, tiled=True)


def add_up(x: jax.Array, name: str) -> jax.Array:
  """The sum of `x` over the devices that cut the logical axis `name`."""
  return jax.lax.psum(x, axes_of(name))


def part_index(name: str) -> jax.Array:
  """Which part of the logical axis `name` this device holds."""
  return jax.lax.axis_index(axes_of(name))


def own_part(x: jax.Array, name: str, axis: int) -> jax.Array:
  """This device's part of `axis` of an array that it has whole."""
  size = x.shape[axis] // axis_size(name)
  start = part_index(name) * size
  return jax.lax.dynamic_slice_in_dim(x, start, size, axis)


def axis_size(name: str) -> int:
  """In how many parts the current mesh cuts the logical axis `name`."""
  shape = jax.sharding.get_abstract_mesh().shape
  return math.prod(shape[axis] for axis in axes_of(name))


def check_divisible(sizes: dict[str, tuple[str, int]]) -> None:
  """Checks array sizes against the current mesh.

  Args:
    sizes: the name to blame -> (logical axis, size).

  Raises:
    ShardingError: a size that its mesh axes do not divide.
  """
  for name, (logical, size) in sizes.items():
    parts = axis_size(logical)
    if size % parts:
      raise ShardingError(
        f"{name}={size} is not divisible by {parts}, the size of mesh axis"
        f" {' x '.join(RULES[logical])}"
      )


def batch_shards(mesh: Mesh) -> int:
  """In how many parts `mesh` cuts the rows of a batch."""
  return math.prod(mesh.shape[axis] for axis in RULES["batch"])


def rows_at_once(most: int, rows_per_device: int, mesh: Mesh) -> int:
  """Rows of a micro-batch over all devices, of batches of at most `most`."""
  shards = batch_shards(mesh)
  return min(rows_per_device, -(-most // shards)) * shards


def put_batch(tree: Any, mesh: Mesh, batch_axis: int = 0) -> Any:
  """Host arrays as global arrays whose rows are cut over data and fsdp.

  Every process holds all rows, and each device takes its own, so any mesh
  will do, also one whose tensor or context axis spans processes.

  Args:
    tree: a tree of numpy arrays, equal on every process.
    mesh: from `make_mesh`.
    batch_axis: the axis of the rows; 1 for micro-batches [M, B/M, T].

  Raises:
    ShardingError: the rows do not divide over the mesh.
  """
  sharding = NamedSharding(mesh, P(*[None] * batch_axis, *spec("batch")))
  shards = batch_shards(mesh)

  def put(x):
    x = np.asarray(x)
    if x.shape[batch_axis] % shards:
      raise ShardingError(
        f"{x.shape[batch_axis]} rows are not divisible by {shards}, the size"
        f" of mesh axes {' x '.join(RULES['batch'])}"
      )
    return jax.make_array_from_callback(x.shape, sharding, lambda at: x[at])

  return jax.tree.map(put, tree)


def abstract(tree: Any) -> Any:
  """Shapes, dtypes and concrete shardings of a tree, abstract or not.

  A leaf of `jax.eval_shape` knows no devices: it gets those of the mesh that
  is set, or without one the first device.
  """
  mesh = jax.sharding.get_mesh()

  def one(x):
    sharding = x.sharding
    if mesh.empty and sharding is None:
      sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    elif sharding is None:
      sharding = NamedSharding(mesh, P())
    elif isinstance(getattr(sharding, "mesh", None), AbstractMesh):
      kind = sharding.memory_kind
      sharding = NamedSharding(mesh, sharding.spec, memory_kind=kind)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(one, tree)
