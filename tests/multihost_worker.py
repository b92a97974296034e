"""One of the processes that test_multihost.py starts."""

import json
import logging.handlers
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from atlas_jax import multihost, sharding
from atlas_jax.checkpoint import Checkpoints
from atlas_jax.config import MeshConfig, OptimizerConfig
from atlas_jax.model import hf
from atlas_jax.training import optimizer, step
from tests.training import tiny


def train(directory: pathlib.Path) -> dict:
  """A step on both processes, saved by both, restored by both."""
  tx, schedule = optimizer.make_optimizer(OptimizerConfig(), 10)
  objective = step.sft_objective(tiny.ARCHITECTURE, tiny.OPTIONS)
  train_step = step.make_train_step(
    objective, tx, schedule, skip_grad_norm=None
  )
  mesh = sharding.make_mesh(MeshConfig())
  with jax.set_mesh(mesh):
    batch = tiny.batch(2)
    state = step.init_state(tiny.model(), tx)
    batch = sharding.put_batch(batch, mesh, 1)
    state, metrics = train_step(state, batch)
    with Checkpoints(directory) as saved:
      saved.save(1, step.as_trees(state), {"next": 5})
    like = jax.eval_shape(lambda m: m, tiny.model())
    like = step.as_trees(step.abstract_state(like, tx))
    with Checkpoints(directory) as saved:
      _, trees, extra = saved.restore(like)
    equal = jax.jit(
      lambda a, b: jax.tree.map(lambda x, y: (x == y).all(), a, b)
    )
    same = jax.tree.leaves(equal(step.from_trees(trees), state))
  return {
    "loss": float(metrics.sums["loss"][0]),
    "grad_norm": float(metrics.sums["grad_norm"][0]),
    "restored": all(bool(x) for x in same),
    "extra": extra,
  }


def fall_back(directory: pathlib.Path) -> dict:
  """Two checkpoints, the newer one cut as process 1 alone sees the disk."""
  mesh = sharding.make_mesh(MeshConfig())
  with jax.set_mesh(mesh):
    by_row = jax.NamedSharding(mesh, jax.P("fsdp"))
    x = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    trees = {"a": {"x": jax.device_put(x, by_row)}}
    with Checkpoints(directory) as saved:
      for n in (1, 2):
        saved.save(n, trees, {"n": n})
    listed = old_listing(directory)
    if not multihost.is_lead():
      stale = directory.with_name("stale")
      directory = shutil.copytree(directory, stale)
      for file in (directory / "2" / "a").glob("**/d/*"):
        file.unlink()
    said = logging.handlers.BufferingHandler(9)
    logging.getLogger("atlas_jax.checkpoint").addHandler(said)
    with Checkpoints(directory) as saved:
      step, found, extra = saved.restore(trees)
    unread = read_with_a_stale_handle(directory, trees)
    pair = found["a"]["x"], trees["a"]["x"]
    same = bool(jax.jit(lambda a, b: (a == b).all())(*pair))
  lines = [record.getMessage() for record in said.buffer]
  return {
    **{"step": step, "extra": extra, "same": same},
    **{"said": lines, "unread": unread, "listed": listed},
  }


def old_listing(directory: pathlib.Path) -> list:
  """The newest step where process 1 sees none for a while, or for ever."""
  load, found = ocp.CheckpointManager._load_checkpoint_infos, []
  blind = {"looks": 0}

  def old(*args, **kwargs):
    blind["looks"] -= 1
    return [] if blind["looks"] >= 0 else load(*args, **kwargs)

  ocp.CheckpointManager._load_checkpoint_infos = old
  shared, multihost.SHARED_S = multihost.SHARED_S, 2
  for looks in (2, 1000):
    blind["looks"] = 0 if multihost.is_lead() else looks
    try:
      with Checkpoints(directory) as saved:
        found.append(saved.latest())
    except multihost.HostsError as error:
      found.append(str(error))
  multihost.SHARED_S = shared
  ocp.CheckpointManager._load_checkpoint_infos = load
  return found


def read_with_a_stale_handle(directory: pathlib.Path, trees) -> list[str]:
  """What each is told where process 1 alone has one."""
  restore = ocp.StandardCheckpointHandler.restore

  def stale(*args, **kwargs):
    raise OSError(116, "Stale file handle")

  if not multihost.is_lead():
    ocp.StandardCheckpointHandler.restore = stale
  try:
    with Checkpoints(directory) as saved:
      saved.restore(trees)
  except Exception as error:
    return [type(error).__name__, str(error)]
  finally:
    ocp.StandardCheckpointHandler.restore = restore


class Counted:
  """A slice reader that adds up the bytes which are read through it."""

  total = 0
  broken = False

  def __init__(self, reader):
    self._reader = reader

  def __getattr__(self, name):
    return getattr(self._reader, name)

  def __getitem__(self, where):
    if Counted.broken:
      raise OSError("Input/output error")
    found = self._reader[where]
    Counted.total += found.nbytes
    return found


def weights(source: pathlib.Path, out: pathlib.Path) -> dict:
  """A model read and written by both."""
  opened = hf._open

  def open_counted(*args):
    return {name: Counted(r) for name, r in opened(*args).items()}

  hf._open = open_counted
  with jax.set_mesh(sharding.make_mesh(MeshConfig())):
    config, model = hf.load(source, jnp.bfloat16)
    read, unread = Counted.total, []
    bare, blind = source.with_name("bare"), not multihost.is_lead()
    for path, Counted.broken in (
      (bare if blind else source, False),
      (source, blind),
    ):
      try:
        hf.load(path, jnp.bfloat16)
      except Exception as error:
        unread.append([type(error).__name__, str(error)])
    Counted.broken = False
    hf_config = hf.read_config(source)

    def save(model, name):
      dtype = jnp.bfloat16
      hf.save(
        out / name, model, config, hf_config, source_dir=source, dtype=dtype
      )

    save(model, "both")
    is_dir = pathlib.Path.is_dir
    if not multihost.is_lead():  # as on a host that does not see the disk
      pathlib.Path.is_dir = lambda path: False
    save(model, "lead")
    pathlib.Path.is_dir = is_dir
    odd = jax.jit(lambda x: x.at[1].set(jnp.nan))(model.blocks.attn_norm[...])
    model.blocks.attn_norm = nnx.Param(odd)
    try:
      save(model, "none")
    except Exception as error:
      refused = [type(error).__name__, str(error)]
  v = model.blocks.v[...].addressable_shards[0]
  bits = np.asarray(v.data).view(np.uint16).ravel().tolist()
  return {"read": read, "unread": unread, "refused": refused, "v": bits}


def main(port: str, count: str, index: str, directory: str) -> None:
  multihost.initialize(f"127.0.0.1:{port}", int(count), int(index))
  rank = jax.process_index()
  out = {"count": jax.process_count(), "lead": multihost.is_lead()}
  mesh = jax.make_mesh((jax.device_count(),), ("fsdp",))
  with jax.set_mesh(mesh):  # as in a run
    secret = {"answer": [1, "é", None], "rank": rank}
    out["broadcast"] = multihost.broadcast_json(secret)
    out["long"] = len(multihost.broadcast_json("x" * (1000 if rank else 70000)))
    parts = multihost.gather(np.array([rank + 1, 2**32 - 1], np.uint32))
    out["gathered"] = parts.tolist()
    out["called"] = multihost.call_on_lead(lambda: {"from": rank})

    def fail():
      raise ValueError("server gone")

    try:
      multihost.call_on_lead(fail)
    except Exception as e:
      out["error"] = [type(e).__name__, str(e)]

    def not_json():
      return object()

    try:
      multihost.call_on_lead(not_json)
    except Exception as e:
      out["not_json"] = type(e).__name__
    # The processes are still in step, and compute together.
    ones = jax.jit(lambda: jnp.ones(8, out_sharding=jax.P("fsdp")))()
    out["sum"] = float(jax.jit(jnp.sum)(ones))
  directory = pathlib.Path(directory)
  out["train"] = train(directory / "checkpoints")
  out["fallen"] = fall_back(directory / "two")
  out["weights"] = weights(directory / "model", directory / "out")
  print("RESULT " + json.dumps(out), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
