"""Damaged checkpoints are passed by; in a run: tests/phases/test_damaged.py."""

import json
import logging
import shutil
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from atlas_jax import checkpoint
from atlas_jax.checkpoint import CheckpointError, Checkpoints
from tests.phases.damages import biggest, empty, flip, said, truncate


def trees(n):
  rng = np.random.default_rng(n)
  large = rng.normal(size=(300, 300)).astype(np.float32)
  small = rng.normal(size=9).astype(np.float32)
  return jax.tree.map(
    jax.numpy.asarray, {"model": {"w": large}, "optimizer": {"m": small}}
  )


def same(a, b) -> bool:
  return all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole") / "checkpoints"
  with Checkpoints(folder) as saved:
    for n in (4, 6):
      saved.save(n, trees(n), {"n": n})
  return folder


def resign(folder, more):
  path = folder / "atlas.json"
  text = json.dumps(json.loads(path.read_text().partition(" ")[2]) | more)
  path.write_text(f"{zlib.crc32(text.encode())} {text}")


DAMAGES = {
  "a missing item": lambda step: shutil.rmtree(step / "optimizer"),
  "a missing file": lambda step: biggest(step).unlink(),
  "a truncated array": lambda step: truncate(biggest(step)),
  "a file of no bytes": lambda step: biggest(step).write_bytes(b""),
  "an empty folder": empty,
  "a flipped byte": lambda step: flip(biggest(step)),
  "a flipped byte of the position": lambda step: flip(step / "atlas.json", 0.1),
  "no list": lambda step: (step / "atlas.json").unlink(),
  "a list that is none": lambda step: (step / "atlas.json").write_text("3 4"),
  "an empty list": lambda step: (step / "atlas.json").write_text(""),
  "a later version": lambda step: resign(step, {"format": 2}),
  "another step": lambda step: (
    shutil.rmtree(step) or shutil.copytree(step.with_name("4"), step)
  ),
  "metadata": lambda step: truncate(step / "model" / "_METADATA"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_newest_whole_checkpoint_takes_the_place_of_a_damaged_one(
  whole, tmp_path, name, caplog
):
  folder = tmp_path / "checkpoints"
  shutil.copytree(whole, folder)
  DAMAGES[name](folder / "6")
  with (
    caplog.at_level(logging.WARNING, logger="atlas_jax.checkpoint"),
    Checkpoints(folder) as saved,
  ):
    step, found, extra = saved.restore(trees(0))
    assert (step, extra) == (4, {"n": 4}) and same(found, trees(4))
    first, second = said(caplog)
    assert first.startswith(f"checkpoint 6 in {folder} ")
    assert "\n" not in first
    assert second == "going on from checkpoint 4, the newest whole one"
    saved.save(6, trees(7), {"n": 7})
  caplog.clear()
  with Checkpoints(folder) as saved:
    step, found, extra = saved.restore(trees(0))
  assert (step, extra) == (6, {"n": 7}) and same(found, trees(7))
  assert not said(caplog)


@pytest.mark.parametrize("name", ["an empty folder", "a flipped byte"])
def test_where_all_are_damaged_none_is_read(whole, tmp_path, name):
  folder = tmp_path / "checkpoints"
  shutil.copytree(whole, folder)
  for step in ("4", "6"):
    DAMAGES[name](folder / step)
  with (
    pytest.raises(CheckpointError, match=r"all .* damaged: \[6, 4\]") as error,
    Checkpoints(folder) as saved,
  ):
    saved.restore(trees(0))
  assert "\n" not in str(error.value)


def stale(*args, **kwargs):
  raise OSError(116, "Stale file handle")


def to_itself(file):
  """A link that the system cannot open."""
  file.unlink()
  file.symlink_to(file)


def lose_an_array(step, patch):
  text = (step / "atlas.json").read_text().partition(" ")[2]
  content = json.loads(text)  # read before the disk fails
  patch.setattr(Checkpoints, "_compare", lambda *_: (None, content))
  to_itself(biggest(step))


FAILURES = {
  "a host": lambda _, patch: patch.setattr(
    ocp.StandardCheckpointHandler, "restore", stale
  ),
  "an array": lose_an_array,
  "the list": lambda step, _: to_itself(step / "atlas.json"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_of_the_system_costs_no_checkpoint(
  whole, tmp_path, name, monkeypatch
):
  folder = tmp_path / "checkpoints"
  shutil.copytree(whole, folder)
  with Checkpoints(folder) as saved:
    with monkeypatch.context() as patch:
      FAILURES[name](folder / "6", patch)
      why = "(Stale file handle|Too many levels)"
      kind = OSError if name == "the list" else CheckpointError
      with pytest.raises(kind, match=why) as error:
        saved.restore(trees(0))
    assert f"{folder}" in str(error.value)
    assert "\n" not in str(error.value)
    saved.save(7, trees(7), {"n": 7})
    assert 6 in saved


def test_every_bit_of_every_array_counts():
  tree = {"a": np.zeros((3, 4), np.float32), "b": np.ones(5, np.int8)}
  total = int(checkpoint._bit_sum(jax.tree.map(jax.numpy.asarray, tree)))
  for name, array in tree.items():
    for at in range(array.nbytes):
      changed = array.copy()
      changed.reshape(-1).view(np.uint8)[at] ^= 1
      other = jax.tree.map(jax.numpy.asarray, {**tree, name: changed})
      assert int(checkpoint._bit_sum(other)) != total
  swapped = {"a": tree["a"], "b": -tree["b"]}
  assert int(checkpoint._bit_sum(swapped)) != total


def test_the_sum_is_that_of_checkpoints_that_were_written_before():
  half = jax.numpy.ones(2, "bfloat16")
  tree = {"a": jax.numpy.arange(3, dtype="float32"), "b": half}
  assert checkpoint._bit_sum(tree) == 531790780
