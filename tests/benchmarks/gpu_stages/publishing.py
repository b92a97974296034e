"""Publishing weights on one host, in full and as a delta, without a server.

The update is AdamW's first one at a learning rate of 1e-6, which moves every
float32 weight by the rate: about the most that a step moves.
"""

import pathlib
import shutil
import tempfile
import time

import blake3
import jax
import jax.numpy as jnp

from atlas_jax.model import hf
from atlas_jax.serving import delta, weight_files, weight_sync
from tests.benchmarks.gpu_stages import common

_RATE = 1e-6


@jax.jit
def _updated(model, key):
  leaves, tree = jax.tree.flatten(model)
  keys = jax.random.split(key, len(leaves))
  return tree.unflatten(
    x + _RATE * jax.random.rademacher(k, x.shape, x.dtype)
    for x, k in zip(leaves, keys, strict=True)
  )


def run(shape: str) -> None:
  architecture = common.architecture(shape)
  model = hf.init(architecture, 0, "float32")
  held, version, hashed = None, 1, getattr(blake3, "STAND_IN", "BLAKE3")
  needed = 4 * sum(x.size for x in jax.tree.leaves(model))
  hf.export_tensors(model, architecture, jnp.bfloat16)  # compiles
  with tempfile.TemporaryDirectory() as directory:
    if shutil.disk_usage(directory).free < needed:
      raise OSError(f"{directory} has less than {needed / common.GIB:.1f} GiB")
    for kind in ("full", "delta"):
      start = time.perf_counter()
      tensors = hf.export_tensors(model, architecture, jnp.bfloat16)
      exported = time.perf_counter()
      changes, sums = weight_sync._compare(tensors, held)
      compared = time.perf_counter()
      entries = delta.entries(changes, tensors) if held else tensors
      _, size = weight_files.write(
        entries,
        pathlib.Path(directory),
        version,
        checksums=sums,
        base=held[0] if held else None,
      )
      end = time.perf_counter()
      common.emit(
        **{"section": "publish", "shape": shape, "kind": kind, "hash": hashed},
        bytes=size,
        of_bytes=sum(x.nbytes for x in tensors.values()),
        export_s=exported - start,
        compare_s=compared - exported,
        write_s=end - compared,
        total_s=end - start,
      )
      held, version = (version, tensors, sums), version + 1
      model = _updated(model, jax.random.key(1))
