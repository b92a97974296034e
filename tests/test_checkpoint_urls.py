"""Checkpoints in a bucket: saved, kept, read, damaged; a bucket on loopback."""

import logging

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from atlas_jax.checkpoint import CheckpointError, Checkpoints
from tests import object_store

pytestmark = pytest.mark.slow
URL = "gs://bucket/run"


@pytest.fixture(scope="module", autouse=True)
def bucket():
  with object_store.served():
    yield object_store.OBJECTS


def _trees(n):
  return {"state": {"w": jnp.full((300, 1000), n, jnp.float32), "n": n}}


@pytest.fixture(scope="module")
def saved(bucket):
  with Checkpoints(URL, keep=2) as saved:
    for n in (1, 2, 3):
      tree = jax.tree.map(jnp.asarray, _trees(n)["state"])
      saved.save(n, {"state": tree}, {"next": n})
  return dict(bucket)


def _read():
  like = jax.tree.map(jnp.asarray, _trees(0))
  with Checkpoints(URL) as saved:
    step, trees, extra = saved.restore(like)
  assert extra == {"next": step}
  assert bool((trees["state"]["w"] == step).all())
  return step


def test_they_lie_in_the_bucket_and_nowhere_else(saved, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert {name.split("/")[2] for name in saved} == {"2", "3"}
  assert "bucket/run/3/atlas.json" in saved
  assert "bucket/run/3/commit_success.txt" in saved
  assert _read() == 3
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("lost", "says"),
  [
    ("3/atlas.json", "atlas.json cannot be read (FileNotFoundError)"),
    ("3/state/_METADATA", "state/_METADATA is gone"),
    ("3/state/manifest.ocdbt", "state/manifest.ocdbt is gone"),
    ("3/commit_success.txt", None),  # for a bucket it was never finished
  ],
)
def test_what_is_damaged_there_is_passed_by(saved, bucket, lost, says, caplog):
  with caplog.at_level(logging.WARNING, logger="atlas_jax.checkpoint"):
    (epath.Path(URL) / lost).unlink()
    assert f"bucket/run/{lost}" not in bucket
    assert _read() == 2
  said = [r.getMessage() for r in caplog.records if "atlas" in r.name]
  if says is None:
    assert not said
  else:
    assert said[0] == f"checkpoint 3 in {URL} is damaged: {says}"
  bucket.update(saved)


def test_where_nothing_is_whole_nothing_begins_anew(saved, bucket):
  for step in ("2", "3"):
    (epath.Path(URL) / step / "state" / "_sharding").write_text("cut")
  with pytest.raises(CheckpointError, match=r"all .* damaged: \[3, 2\]"):
    _read()
  bucket.update(saved)
