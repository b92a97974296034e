"""SFT and GRPO steps on 8 fake devices, for test_sharded_steps.py.

Writes an .npz: MESH/OBJECTIVE/{loss, grad_norm, gradient, logprobs, programs}.
"""

import dataclasses
import gc
import pathlib
import sys

import jax
import numpy as np

from atlas_jax import sharding
from atlas_jax.checkpoint import Checkpoints
from atlas_jax.config import GrpoConfig, MeshConfig, OptimizerConfig
from atlas_jax.data import packing
from atlas_jax.model import hf, logprobs, lora
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.training import optimizer, scoring, step
from tests.model import hf_configs
from tests.training import tiny

# Heads for a tensor axis of 4.
ARCHITECTURE = dataclasses.replace(tiny.ARCHITECTURE, n_heads=8, n_kv_heads=4)
# A head of 48, 24 or 12 rows of 32 numbers: in slices of 10, 8 or 6 of them.
SLICE = 320
MESHES = {
  "one": MeshConfig(fsdp=1),
  "data8": MeshConfig(data=8, fsdp=1),
  "fsdp8": MeshConfig(fsdp=8),
  "fsdp2_tensor4": MeshConfig(fsdp=2, tensor=4),
  "data2_fsdp2_tensor2": MeshConfig(data=2, fsdp=2, tensor=2),
  "fsdp2_tensor2_context2": MeshConfig(fsdp=2, tensor=2, context=2),
  "fsdp2_context4": MeshConfig(fsdp=2, context=4),
}
# Sums over sequences, the entropy quantile, and old log-probs.
SEQUENCE = GrpoConfig(
  epochs=2,
  loss_type="grpo",
  ratio_level="sequence",
  mismatch="sequence_truncate",
  entropy_share=0.5,
)


def grpo_objective(grpo):
  return step.grpo_objective(
    ARCHITECTURE,
    tiny.OPTIONS,
    grpo,
    temperature=tiny.TEMPERATURE,
    max_completion_tokens=16,
  )


GRPO = grpo_objective(tiny.GRPO)
OBJECTIVES = {
  "sft": step.sft_objective(ARCHITECTURE, tiny.OPTIONS),
  "grpo": GRPO,
  "sequence": grpo_objective(SEQUENCE),
  "adapters": GRPO,
  "adapters_applied": GRPO._replace(lora_form="applied"),
  "offloaded": GRPO,
}
# What must give the loss and the gradient of another, on one device too.
SAME = {"adapters_applied": "adapters", "offloaded": "grpo"}
# These two cut weights, rows and sequences in every way.
CUTS = ("data2_fsdp2_tensor2", "fsdp2_tensor2_context2")
# GRPO runs on every mesh. On these two it runs in other forms: where sequences
# are cut if a form sums over them or acts on them, else where rows are cut by
# two axes.
RUNS = (
  *((mesh, "grpo") for mesh in MESHES if mesh not in CUTS),
  *((CUTS[0], objective) for objective in ("adapters", "offloaded")),
  *((CUTS[1], name) for name in ("sft", "sequence", "adapters_applied")),
)
SCORED = ("one", *CUTS)
# A checkpoint of each is read on the next: no reader knows who saved.
RESTORED = ("data8", "fsdp8", "fsdp2_tensor4", *CUTS)


def make_batch(name):
  """Lone sequences; for GRPO also groups that share their prompts."""
  if name == "sft":
    return tiny.batch(2, rows_multiple=16)
  batch, stats = packing.pack(
    tiny.sequences() + tiny.groups(),
    length=32,
    rows_multiple=16,
    share_prompts=True,
  )
  assert stats.shared_tokens > 0
  return packing.split_micro(batch, 2)


def flat(tree) -> np.ndarray:
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def run(name, put) -> dict[str, np.ndarray]:
  # No clip: after the first update the first moment is (1 - b1) * gradient.
  config = OptimizerConfig(clip_norm=1e9, warmup_steps=0, learning_rate=1e-3)
  offload = "moments" if name == "offloaded" else "none"
  tx, schedule = optimizer.make_optimizer(config, 10, offload)
  train = step.make_train_step(
    OBJECTIVES[name], tx, schedule, skip_grad_norm=None
  )
  prepare = scoring.make_prepare_step(
    ARCHITECTURE,
    tiny.OPTIONS,
    SEQUENCE if name == "sequence" else tiny.GRPO,
    temperature=tiny.TEMPERATURE,
  )
  model = tiny.model(architecture=ARCHITECTURE)
  if name.startswith("adapters"):
    model = lora.join(model, tiny.adapters(architecture=ARCHITECTURE))
  state = step.init_state(model, tx)
  batch = prepare(state.model, put(make_batch(name)))
  state, metrics = train(state, batch)
  gradient = flat(state.opt_state[1].mu) / (1 - config.b1)
  if not jax.sharding.get_mesh().empty:
    state, _ = train(state, batch)
  return {
    "loss": np.divide(*metrics.sums["loss"]),
    "grad_norm": np.asarray(metrics.sums["grad_norm"][0]),
    "gradient": gradient,
    "programs": train._cache_size(),
  }


def restored(directory: pathlib.Path) -> dict[str, bool]:
  """SAVED/READ -> whether a state of one mesh is the same on the next one."""
  tx, _ = optimizer.make_optimizer(OptimizerConfig(), 10)
  meshes = {name: sharding.make_mesh(MESHES[name]) for name in RESTORED}
  states = {}
  for name, mesh in meshes.items():
    with jax.set_mesh(mesh), Checkpoints(directory / name) as saved:
      states[name] = step.init_state(tiny.model(architecture=ARCHITECTURE), tx)
      saved.save(1, step.as_trees(states[name]), {})
  wanted, out, other = flat(states["fsdp8"]), {}, RESTORED[-1]
  for name, like in states.items():
    with jax.set_mesh(meshes[name]), Checkpoints(directory / other) as saved:
      abstract = step.as_trees(jax.eval_shape(lambda s: s, like))
      _, trees, _ = saved.restore(abstract)
    again = step.from_trees(trees)
    pairs = zip(jax.tree.leaves(again), jax.tree.leaves(like), strict=True)
    same = all(a.sharding == b.sharding for a, b in pairs)
    out[f"{other}/{name}"] = same and bool((flat(again) == wanted).all())
    other = name
  return out


def exported(directory: pathlib.Path) -> dict[str, bool]:
  """MESH -> whether a model that lies on it is saved and read again whole."""
  architecture, out = DecoderConfig.from_hf(hf_configs.BASE), {}
  for name, options in MESHES.items():
    devices = jax.devices()[: 1 if name == "one" else None]
    with jax.set_mesh(sharding.make_mesh(options, devices)):
      model, path = tiny.model(architecture=architecture), directory / name
      hf.save(
        *(path, model, architecture, hf_configs.BASE),
        source_dir=None,
        dtype="float32",
      )
      _, again = hf.load(path, "float32")
      out[name] = bool((flat(again) == flat(model)).all())
  return out


def main(path: str) -> None:
  out = {}
  gc.freeze()  # see tests/conftest.py
  gc.set_threshold(100_000, 20, 100)
  logprobs._SLICE = SLICE
  sharding._TORI, sharding._RING = ("cpu",), 2
  score = scoring.make_score_step(
    ARCHITECTURE, tiny.OPTIONS, temperature=tiny.TEMPERATURE
  )

  def record(mesh_name, put):
    for name in OBJECTIVES:
      wanted = (mesh_name, name) in RUNS
      if mesh_name == "none":
        wanted = name not in SAME
      if not wanted:
        continue
      for key, value in run(name, put).items():
        out[f"{mesh_name}/{name}/{key}"] = value
    if mesh_name not in ("none", *SCORED):
      return
    batch = put(make_batch("grpo"))
    out[f"{mesh_name}/score"] = np.asarray(
      score(tiny.model(architecture=ARCHITECTURE), batch)
    )

  record("none", lambda batch: batch)
  for name, config in MESHES.items():
    devices = jax.devices()[:1] if name == "one" else jax.devices()
    mesh = sharding.make_mesh(config, devices)
    # The two meshes that cut a weight in eight add gradients up each its way.
    sharding._CUBES = () if name == "fsdp8" else ("cpu",)
    with jax.set_mesh(mesh):
      record(name, lambda b, mesh=mesh: sharding.put_batch(b, mesh, 1))
  for pair, same in restored(pathlib.Path(path).with_suffix("")).items():
    out[f"restored/{pair}"] = same
  for mesh, same in exported(pathlib.Path(path).with_suffix(".models")).items():
    out[f"exported/{mesh}"] = same
  np.savez(path, **out)


if __name__ == "__main__":
  main(sys.argv[1])
