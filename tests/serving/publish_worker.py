"""One of the processes that publish a model that none of them holds.

argv: the coordinator's port, how many processes, which one this is, a work
directory, and "tiny" or the model's bfloat16 GB. It publishes version 1 in
full and version 2 as a delta to a server that takes whatever is announced, and
prints one line of JSON: growth of its memory, bytes of its boxes.
"""

import dataclasses
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from atlas_jax import multihost, sharding
from atlas_jax.config import MeshConfig, ServingConfig
from atlas_jax.model import decoder, hf
from atlas_jax.model.owned import iter_owned
from atlas_jax.serving import weight_sync
from atlas_jax.serving.http import WeightsRefused
from tests.serving import tiny_vllm
from tests.training import tiny

LAYERS = 12


class Taking(tiny_vllm.TeacherServer):
  """Keeps what it is told; `refuses` so many updates first."""

  refuses = 0

  def update_weights(self, files, version, checksums, timeout_s, restart):
    if self.refuses:
      self.refuses -= 1
      raise WeightsRefused("not that")
    return {"seconds_check": 0.0, "seconds_apply": 0.0}


def architecture(size: str) -> decoder.DecoderConfig:
  """Of about `size` GB in bfloat16; LAYERS layers, as at 8B but narrower."""
  if size == "tiny":
    return tiny.ARCHITECTURE
  wide = round((float(size) * 5e8 / (LAYERS * 12 + 16)) ** 0.5 / 64) * 64
  return dataclasses.replace(
    tiny.ARCHITECTURE,
    **{"n_layers": LAYERS, "n_heads": 8, "n_kv_heads": 4},
    **{"d_model": wide, "d_ffw": 3 * wide, "head_dim": wide // 8},
    vocab_size=8 * wide,
  )


def drawn(config: decoder.DecoderConfig):
  """Float32 parameters, each device's part made by itself."""
  tile = np.random.default_rng(0).normal(size=1 << 20).astype(np.float32)

  def draw(x):
    def part(at):
      return np.resize(tile, np.broadcast_to(0, x.shape)[at].shape)

    where = NamedSharding(jax.sharding.get_mesh(), x.sharding.spec)
    return jax.make_array_from_callback(x.shape, where, part)

  return jax.tree.map(draw, hf.abstract(config, jnp.float32))


def stepped(model):
  """About one value in 100 is another, and each time others are."""
  return jax.tree.map(lambda x: jnp.where(x % 0.1 < 0.001, x + 0.55, x), model)


def memory(what: str) -> int:
  """VmRSS (now) or VmHWM (the most since `forget_peak`), in bytes."""
  text = pathlib.Path("/proc/self/status").read_text()
  return int(re.search(rf"{what}:\s+(\d+)", text)[1]) << 10


def forget_peak() -> None:
  pathlib.Path("/proc/self/clear_refs").write_text("5")


def main(port, count, index, directory, size) -> None:
  multihost.initialize(f"127.0.0.1:{port}", int(count), int(index))
  root = pathlib.Path(directory)
  server = Taking(
    tiny_vllm.server_config(dtype="bfloat16"),
    model_path=root,
    workdir=root,
    start_timeout_s=1,
  )
  sender = weight_sync.WeightSender(server, ServingConfig())
  out = {"growth": [], "sent": [], "seconds": []}
  data = 2 if size == "tiny" else 1
  mesh = sharding.make_mesh(MeshConfig(data=data, fsdp=4 // data, tensor=2))
  with jax.set_mesh(mesh):
    config = architecture(size)
    model = tiny.model() if size == "tiny" else drawn(config)
    for version in (1, 2):
      if version == 2:
        step = jax.jit(stepped, donate_argnums=0)
        model = jax.block_until_ready(step(model))
      before = memory("VmRSS")
      forget_peak()
      sent = sender.send(iter_owned(model, config, jnp.bfloat16), version)
      out["growth"].append(memory("VmHWM") - before)
      out["sent"].append([sent.is_delta, sent.bytes])
      out["seconds"].append(sent.seconds_write)
    out["own"] = sum(box.nbytes for box in sender._held_boxes.values())
    if size == "tiny":  # a refused delta: each writes its part of all
      server.refuses = 1
      model = jax.jit(stepped)(model)
      sent = sender.send(iter_owned(model, config, jnp.bfloat16), 3)
      out["sent"].append([sent.is_delta, sent.bytes])
    # A failure of one process is one of all, and none waits.
    try:
      multihost.call_on_all(lambda: 1 // (multihost.number() - 1))
    except Exception as error:
      out["error"] = [type(error).__name__, str(error)]
  print("RESULT " + json.dumps(out), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
