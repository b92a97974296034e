import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from atlas_jax import sharding
from atlas_jax.config import MeshConfig
from atlas_jax.sharding import ShardingError


def abstract_mesh(**sizes):
  shape = [sizes.get(axis, 1) for axis in sharding.AXES]
  return AbstractMesh(
    tuple(shape), sharding.AXES, axis_types=(AxisType.Explicit,) * 4
  )


def test_spec_follows_the_rules():
  assert sharding.spec("batch", "tokens", None) == P(
    ("data", "fsdp"), "context", None
  )
  assert sharding.spec("vocab", "embed") == P("tensor", ("fsdp", "context"))


def test_two_axes_on_one_mesh_axis_collide():
  with pytest.raises(ShardingError, match=r"'batch' and 'embed'.*'fsdp'"):
    sharding.spec("batch", "embed")


def test_unknown_axis_lists_the_valid_ones():
  with pytest.raises(ShardingError, match=r"unknown .*'hedas'.*kv_heads"):
    sharding.spec("hedas")


def test_mesh_takes_what_is_left():
  mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
  assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1, "context": 1}
  assert set(mesh.axis_types) == {AxisType.Explicit}


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (MeshConfig(data=-1, fsdp=-1), "only one axis may be -1"),
    (MeshConfig(tensor=0), "at least 1"),
    (MeshConfig(tensor=2), "does not divide the 1 devices"),
    (MeshConfig(fsdp=3), "must multiply to 1"),
  ],
)
def test_wrong_meshes_are_refused(config, message):
  with pytest.raises(ShardingError, match=message):
    sharding.make_mesh(config, jax.devices()[:1])


def test_sizes_are_checked_against_the_mesh():
  with jax.sharding.use_abstract_mesh(abstract_mesh(tensor=2)):
    sharding.check_divisible({"n_kv_heads": ("kv_heads", 4)})
    with pytest.raises(ShardingError, match=r"n_kv_heads=3 .* 2, .* tensor"):
      sharding.check_divisible({"n_kv_heads": ("kv_heads", 3)})


def test_without_a_mesh_nothing_is_placed():
  x = np.ones((2, 2))
  assert sharding.place(x, "batch", None) is x
  assert sharding.layout("batch", None) is None
  sharding.check_divisible({"n_kv_heads": ("kv_heads", 3)})


def test_a_batch_is_cut_along_the_named_axis():
  mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
  rows = np.arange(12, dtype=np.int32).reshape(2, 3, 2)
  out = sharding.put_batch({"tokens": rows}, mesh, batch_axis=1)["tokens"]
  assert out.sharding.spec == P(None, ("data", "fsdp"))
  np.testing.assert_array_equal(out, rows)
  assert sharding.batch_shards(mesh) == 1
