"""Round trips, resume equality, refusals, and what a kill leaves."""

import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from atlas_jax import sharding
from atlas_jax.checkpoint import CheckpointError, Checkpoints
from atlas_jax.config import MeshConfig, OptimizerConfig
from atlas_jax.training import optimizer, step
from tests.training import tiny


def _tree(seed=0):
  a, b = jax.random.split(jax.random.key(seed))
  return {
    "w": jax.random.normal(a, (3, 4)),
    "half": jax.random.normal(b, (5,), jnp.bfloat16),
    "n": jnp.int32(7),
  }


def _equal(a, b):
  return jax.tree.all(
    jax.tree.map(lambda x, y: x.dtype == y.dtype and bool((x == y).all()), a, b)
  )


def test_round_trip_is_bit_exact_and_keeps_two(tmp_path):
  with Checkpoints(tmp_path) as saved:
    assert saved.latest() is None
    for n in (1, 2, 3):
      saved.save(n, {"state": _tree(n)}, {"position": [n, "é"], "seed": 2**40})
  with Checkpoints(tmp_path) as saved:
    assert saved.latest() == 3
    _, trees, extra = saved.restore({"state": _tree()})
    assert _equal(trees["state"], _tree(3))
    assert extra == {"position": [3, "é"], "seed": 2**40}
  assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


def test_one_tree_of_several_and_rng_keys(tmp_path):
  key = {"key": jax.random.key_data(jax.random.key(5))}
  with Checkpoints(tmp_path) as saved:
    saved.save(1, {"model": _tree(1), "rng": key}, {})
    _, trees, _ = saved.restore({"rng": key})
    assert list(trees) == ["rng"]
    assert _equal(trees["rng"], key)
    with pytest.raises(CheckpointError, match="no 'ema'; it has: model, rng"):
      saved.restore({"ema": key})


def test_refuses_another_shape(tmp_path):
  with Checkpoints(tmp_path) as saved:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
      saved.restore({"state": _tree()})
    saved.save(4, {"state": _tree()}, {})
    other = _tree() | {"w": jnp.zeros((3, 5))}
    with pytest.raises(
      CheckpointError,
      match=r"checkpoint 4 .* another model or optimizer: state: w: saved"
      r" \(\(3, 4\), 'float32'\), wanted \(\(3, 5\), 'float32'\)",
    ):
      saved.restore({"state": other})
    other = _tree()
    other["v"] = other.pop("n")
    with pytest.raises(CheckpointError, match=r"n: saved .* wanted nothing; v"):
      saved.restore({"state": other})
    with pytest.raises(CheckpointError, match="'bfloat16'"):
      saved.restore({"state": _tree() | {"half": jnp.zeros((5,))}})


@pytest.mark.slow
def test_resume_equals_never_stopping(tmp_path):
  """Two steps, save, restore, two steps == four steps, to the bit."""
  config = OptimizerConfig(
    learning_rate=1e-2, warmup_steps=2, schedule="cosine"
  )
  tx, schedule = optimizer.make_optimizer(config, 4)
  objective = step.sft_objective(tiny.ARCHITECTURE, tiny.OPTIONS)
  train = step.make_train_step(objective, tx, schedule, skip_grad_norm=None)
  batches = [tiny.batch(2, seed=i) for i in range(4)]

  def run(state, batches):
    for batch in batches:
      state, metrics = train(state, batch)
    return state, metrics

  whole, metrics = run(step.init_state(tiny.model(), tx), batches)

  state, _ = run(step.init_state(tiny.model(), tx), batches[:2])
  with Checkpoints(tmp_path) as saved:
    saved.save(2, {"state": state}, {"next": 2})
    # The step donates what is being written in the background.
    run(state, batches[2:])
  with Checkpoints(tmp_path) as saved:
    like = step.abstract_state(tiny.model(1), tx)
    _, trees, extra = saved.restore({"state": like})
  resumed, again = run(trees["state"], batches[extra["next"] :])
  assert _equal(resumed, whole)
  assert int(resumed.step) == 4
  assert _equal(again, metrics)


def test_the_best_stays_among_the_newest_and_can_be_read(tmp_path):
  with Checkpoints(tmp_path, keep=1) as saved:
    for step in (1, 2, 3, 4):
      saved.best = 2 if step > 1 else 1
      saved.save(step, {"state": {"w": jnp.full((2,), step)}}, {"n": step})
    like = {"state": {"w": jnp.zeros((2,), int)}}
    assert saved.restore(like)[0] == 4
    step, trees, extra = saved.restore(like, step=2)
    assert (step, extra) == (2, {"n": 2}) and trees["state"]["w"].tolist() == [
      *(2, 2)
    ]
    assert [n for n in range(1, 5) if n in saved] == [2, 4]


_KILLED = """
import sys, pathlib, os, signal
import numpy as np, jax
from atlas_jax.checkpoint import Checkpoints
saved = Checkpoints(pathlib.Path(sys.argv[1]))
tree = {"w": jax.numpy.ones((2048, 2048))}
saved.save(1, {"state": tree}, {"n": 1})
saved._manager.wait_until_finished()
saved.save(2, {"state": jax.tree.map(lambda x: 2 * x, tree)}, {"n": 2})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_writing_leaves_a_whole_checkpoint(tmp_path):
  env = os.environ | {"JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", _KILLED, str(tmp_path)], env=env, timeout=120
  )
  assert done.returncode == -signal.SIGKILL
  with Checkpoints(tmp_path) as saved:
    _, trees, extra = saved.restore({"state": {"w": jnp.zeros((2048, 2048))}})
    np.testing.assert_array_equal(trees["state"]["w"], float(extra["n"]))
    # The unfinished one does not stop the next save of the same step.
    saved.save(2, trees, {"n": 2})
    assert saved.latest() == 2


_FULL = """
import pathlib, resource, sys, jax
from atlas_jax.checkpoint import CheckpointError, Checkpoints
tree = {"w": jax.random.normal(jax.random.key(0), (900, 900))}
try:
  with Checkpoints(pathlib.Path(sys.argv[1])) as saved:
    saved.save(1, {"state": tree}, {})
    saved._manager.wait_until_finished()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    saved.save(2, {"state": tree}, {})
except CheckpointError as error:
  sys.exit(f"{error}")
"""


def test_a_disk_that_is_full_is_one_line_and_the_last_one_stays(tmp_path):
  env = os.environ | {"JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", _FULL, str(tmp_path)],
    env=env,
    timeout=120,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  last = done.stderr.splitlines()[-1]
  assert last.startswith(f"a checkpoint in {tmp_path} cannot be written: ")
  assert "File too large" in last
  with Checkpoints(tmp_path) as saved:
    assert saved.restore({"state": {"w": jnp.zeros((900, 900))}})[0] == 1


def test_a_write_that_fails_waits_for_no_other_process(tmp_path, monkeypatch):
  met = []
  monkeypatch.setattr(
    ocp.multihost,
    "get_barrier_sync_fn",
    lambda **_: lambda **_: met.append(sys.exception()),
  )

  def full(_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(Checkpoints, "_write_content", full)
  with (
    pytest.raises(CheckpointError, match=r"be written: .*No space left"),
    Checkpoints(tmp_path) as saved,
  ):
    saved.save(1, {"state": {"w": jnp.zeros(3)}}, {})
  assert met and not any(met)


def test_no_flipped_byte_of_any_file_is_restored_in_silence(tmp_path):
  # Above a megabyte the sum over its bits alone sees a change.
  large = {"x": jax.random.normal(jax.random.key(3), (900, 500))}
  whole = tmp_path / "whole"
  with Checkpoints(whole) as saved:
    for n in (1, 2):
      saved.save(n, {"state": _tree(n), "other": large}, {"n": n})
  sizes = [p.stat().st_size for p in (whole / "2" / "other").rglob("*")]
  assert max(sizes) > 1 << 20
  like = {"state": _tree(), "other": jax.tree.map(jnp.zeros_like, large)}
  files = [p.relative_to(whole) for p in (whole / "2").rglob("*")]
  files = [name for name in files if (whole / name).is_file()]
  assert len(files) > 10
  passed_by = 0
  for name in files:
    size = (whole / name).stat().st_size
    for at in {0, size // 2, size - 1}:
      copy = tmp_path / "copy"
      shutil.copytree(whole, copy)
      data = bytearray((copy / name).read_bytes())
      data[at] ^= 4
      (copy / name).write_bytes(data)
      with Checkpoints(copy) as saved:
        step, trees, extra = saved.restore(like)
        assert extra == {"n": step}, (name, at)
        assert _equal(trees["state"], _tree(step)), (name, at)
        assert _equal(trees["other"], large), (name, at)
        passed_by += step == 1
      shutil.rmtree(copy)
  assert passed_by >= 6


def test_a_damaged_checkpoint_is_removed_only_when_the_next_is_saved(tmp_path):
  with Checkpoints(tmp_path, keep=2) as saved:
    for n in (1, 2):
      saved.save(n, {"state": _tree(n)}, {})
  (tmp_path / "2" / "atlas.json").unlink()
  with Checkpoints(tmp_path, keep=2) as saved:
    assert saved.restore({"state": _tree()})[0] == 1
  assert (tmp_path / "2").exists()
  with Checkpoints(tmp_path, keep=2) as saved:
    saved.restore({"state": _tree()})
    saved.save(2, {"state": _tree(5)}, {})
  with Checkpoints(tmp_path, keep=2) as saved:
    step, trees, _ = saved.restore({"state": _tree()})
    assert step == 2 and _equal(trees["state"], _tree(5))


def test_a_leaf_without_a_sharding_gets_the_mesh_that_is_set():
  like = {"x": jax.ShapeDtypeStruct((4,), jnp.float32)}
  (alone,) = jax.tree.leaves(sharding.abstract(like))
  assert alone.sharding.device_set == {jax.devices()[0]}
  mesh = sharding.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
  with jax.set_mesh(mesh):
    (found,) = jax.tree.leaves(sharding.abstract(like))
  assert (found.sharding.mesh, found.sharding.spec) == (mesh, jax.P())


def test_of_many_differences_three_are_named(tmp_path):
  names = [f"x{i}" for i in range(5)]
  with Checkpoints(tmp_path) as saved:
    saved.save(1, {"state": {name: jnp.zeros(2) for name in names}}, {})
    with pytest.raises(CheckpointError) as error:
      saved.restore({"state": {name: jnp.zeros(3) for name in names}})
  assert str(error.value).count("wanted") == 3
  assert all(name in str(error.value) for name in names[:3])
