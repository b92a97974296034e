"""Files, manifests and refusals of publish, without a server."""

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from atlas_jax.serving import weight_sync
from atlas_jax.serving.client import ServerError
from tests.serving import tiny_vllm


class Held(tiny_vllm.TeacherServer):
  """A teacher server that keeps what it is told, or something else."""

  spoil = None

  def update_weights(self, path, version, checksums, timeout_s):
    self.version, self.sums = version, dict(checksums)
    if self.spoil is not None:
      self.spoil(self)
    return {"seconds_check": 0.0, "seconds_apply": 0.0}

  def held_weights(self, timeout_s=1.0):
    return {"version": self.version, "checksums": self.sums}


@pytest.fixture
def teacher(tmp_path):
  return Held(
    tiny_vllm.server_config(dtype="bfloat16"),
    model_path=tmp_path,
    workdir=tmp_path,
    start_timeout_s=1,
  )


def tensors(seed=0):
  rng = np.random.default_rng(seed)
  made = {"b": rng.normal(size=(3, 5)), "a": rng.normal(size=(7,))}
  # A view that is not contiguous: its bytes must be written in row order.
  made["c"] = rng.normal(size=(4, 6)).T
  return {k: v.astype(ml_dtypes.bfloat16) for k, v in made.items()}


def publish(tensors, teacher, version):
  return weight_sync.publish(tensors, teacher, version=version, timeout_s=1)


def test_file_is_what_safetensors_reads(teacher):
  given = tensors()
  report = publish(given, teacher, 3)
  path = teacher.weights_root / "weights-00000003.safetensors"
  read = load_file(path)
  assert set(read) == set(given) and path.stat().st_size == report.bytes
  for name, tensor in given.items():
    assert read[name].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read[name], tensor)
  with safe_open(path, framework="np") as f:
    assert f.get_slice("c").get_shape() == [6, 4]
  manifest = json.loads(
    (teacher.weights_root / "weights-00000003.json").read_text()
  )
  assert manifest["version"] == 3 and manifest["files"] == [path.name]
  assert (
    manifest["checksums"]["c"]
    == hashlib.sha256(given["c"].tobytes()).hexdigest()
  )


def test_the_last_two_versions_are_kept(teacher):
  root = teacher.weights_root
  for version in (1, 2, 5, 9):
    publish(tensors(version), teacher, version)
    (root / "weights-00000077.safetensors.partial").write_bytes(b"killed")
  publish(tensors(), teacher, 10)
  assert sorted(p.name for p in root.iterdir()) == [
    "weights-00000009.json",
    "weights-00000009.safetensors",
    "weights-00000010.json",
    "weights-00000010.safetensors",
  ]


def test_a_server_that_holds_something_else(teacher):
  teacher.spoil = lambda t: t.sums.update(a="0" * 64)
  with pytest.raises(ServerError, match="1 of 3 tensors, such as a"):
    publish(tensors(), teacher, 1)
  teacher.spoil = lambda t: t.sums.pop("b")
  with pytest.raises(ServerError, match="such as b"):
    publish(tensors(), teacher, 1)
  teacher.spoil = lambda t: setattr(t, "version", "0")
  with pytest.raises(ServerError, match="holds version 0, not 1"):
    publish(tensors(), teacher, 1)


def test_a_dtype_that_the_server_does_not_run_in(teacher):
  wrong = {**tensors(), "b": np.zeros((3, 5), np.float32)}
  with pytest.raises(ValueError, match=r"b is float32, .* bfloat16"):
    publish(wrong, teacher, 1)
  assert not teacher.weights_root.exists()


def test_a_student_takes_no_weights(tmp_path):
  student = tiny_vllm.student(tmp_path, tmp_path)
  with pytest.raises(TypeError, match="StudentServer"):
    publish(tensors(), student, 1)
