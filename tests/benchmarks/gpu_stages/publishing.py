"""Publishing weights on one host, in full and as a delta, without a server.

The update is AdamW's first one at a learning rate of 1e-6, which moves every
float32 weight by the rate: about the most that a step moves.
"""

import collections
import shutil
import tempfile
import time

import blake3
import jax
import jax.numpy as jnp

from atlas_jax.config import ServingConfig
from atlas_jax.model import hf, owned
from atlas_jax.server_config import ServerConfig
from atlas_jax.serving import weight_sync
from atlas_jax.serving.server import TeacherServer
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
  hashed = getattr(blake3, "STAND_IN", "BLAKE3")
  needed = 4 * sum(x.size for x in jax.tree.leaves(model))

  def exported():
    return owned.iter_owned(model, architecture, jnp.bfloat16)

  collections.deque(exported(), maxlen=0)  # compiles
  with tempfile.TemporaryDirectory() as directory:
    if shutil.disk_usage(directory).free < needed:
      raise OSError(f"{directory} has less than {needed / common.GIB:.1f} GiB")
    server = TeacherServer(
      ServerConfig(dtype="bfloat16"),
      **{"model_path": directory, "workdir": directory},
      start_timeout_s=1,
    )
    sender = weight_sync.WeightSender(server, ServingConfig())
    for version, kind in enumerate(("full", "delta"), 1):
      start = time.perf_counter()
      collections.deque(exported(), maxlen=0)
      end = time.perf_counter()
      export_s = end - start
      # With the rounding on the device once more; a delta is written in it.
      base = version - 1 or None
      entries = list(sender._compared(exported(), base))
      compared = time.perf_counter()
      part = sender._write(entries, version, base, [])
      written = time.perf_counter()
      common.emit(
        **{"section": "publish", "shape": shape, "kind": kind, "hash": hashed},
        bytes=part["bytes"],
        of_bytes=part["whole"],
        export_s=export_s,
        compare_s=compared - end - export_s,
        write_s=written - compared,
        total_s=written - end,
      )
      model = _updated(model, jax.random.key(1))
