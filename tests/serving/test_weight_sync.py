"""Files, manifests and refusals of weights that are sent, without a server."""

import json

import blake3
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from atlas_jax.config import ServingConfig
from atlas_jax.serving import weight_sync
from atlas_jax.serving.client import ServerDown
from tests.serving import tiny_vllm
from tests.serving.checksum_oracle import checksum
from tests.serving.followers import (
  Follower,
  Held,
  assert_follows,
  big,
  delta,
  full,
  stepped,
)
from tests.serving.publications import owned


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


def send(tensors, teacher, version):
  """By a sender that has sent nothing before."""
  sender = weight_sync.WeightSender(teacher, ServingConfig())
  return sender.send(owned(tensors), version)


def test_file_is_what_safetensors_reads(teacher):
  given = tensors()
  report = send(given, teacher, 3)
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
  assert manifest["version"] == 3 and list(manifest["files"]) == [path.name]
  digest = blake3.blake3(path.read_bytes()).hexdigest()
  assert manifest["files"][path.name] == digest
  assert manifest["checksums"]["c"] == checksum(given["c"])


def test_the_last_two_versions_are_kept(teacher):
  root = teacher.weights_root
  for version in (1, 2, 5, 9):
    send(tensors(version), teacher, version)
    (root / "weights-00000077.safetensors.partial").write_bytes(b"killed")
  send(tensors(), teacher, 10)
  assert sorted(p.name for p in root.iterdir()) == [
    "weights-00000009.json",
    "weights-00000009.safetensors",
    "weights-00000010.json",
    "weights-00000010.safetensors",
  ]


def test_a_dtype_that_the_server_does_not_run_in(teacher):
  wrong = {**tensors(), "b": np.zeros((3, 5), np.float32)}
  with pytest.raises(ValueError, match=r"b is float32, .* bfloat16"):
    send(wrong, teacher, 1)
  assert not teacher.weights_root.exists()


def test_a_student_takes_no_weights(tmp_path):
  student = tiny_vllm.student(tmp_path, tmp_path)
  with pytest.raises(TypeError, match="StudentServer"):
    send(tensors(), student, 1)


@pytest.fixture
def follower(tmp_path):
  return Follower(
    tiny_vllm.server_config(dtype="bfloat16"),
    model_path=tmp_path,
    workdir=tmp_path,
    start_timeout_s=1,
  )


def test_deltas_grow_out_of_a_full_file(follower):
  sender = weight_sync.WeightSender(follower, ServingConfig())
  tensors = big()
  sizes = []
  for version in (1, 2, 3, 7):
    sizes.append(sender.send(owned(tensors), version).bytes)
    assert_follows(follower, tensors)
    tensors = stepped(tensors, seed=version)
  assert follower.took == [full(1), delta(2), delta(3), delta(7)]
  assert all(size < 0.04 * sizes[0] for size in sizes[1:])
  manifest = json.loads(
    (follower.weights_root / "weights-00000007.json").read_text()
  )
  assert manifest["base"] == 3 and list(manifest["files"]) == [delta(7)]
  assert manifest["checksums"] == follower.sums
  assert sorted(p.name for p in follower.weights_root.iterdir()) == [
    delta(3),
    "weights-00000003.json",
    delta(7),
    "weights-00000007.json",
  ]


def test_nothing_changed_is_an_empty_delta(follower):
  sender = weight_sync.WeightSender(follower, ServingConfig())
  sender.send(owned(big()), 1)
  assert sender.send(owned(big()), 2).bytes < 200
  assert follower.version == "2"
  assert_follows(follower, big())


def test_much_changed_is_a_full_file(follower):
  sender = weight_sync.WeightSender(follower, ServingConfig())
  sender.send(owned(big()), 1)
  # 4 bytes a changed value of 2: the limit of one half is at a quarter.
  sender.send(owned(stepped(big(), 1, fraction=0.22)), 2)
  sender.send(owned(stepped(big(), 2, fraction=0.22)), 3)
  assert follower.took == [full(1), delta(2), full(3)]


def test_a_server_without_the_base_gets_the_full_file(follower):
  sender = weight_sync.WeightSender(follower, ServingConfig())
  sender.send(owned(big()), 1)
  follower.restart()
  new = stepped(big(), 1)
  sender.send(owned(new), 2)
  assert_follows(follower, new)
  follower.version = "someone else's"
  sender.send(owned(big()), 3)
  sender.send(owned(new), 4)
  assert follower.took == [full(1), full(2), full(3), delta(4)]
  assert_follows(follower, new)
  # No refused delta is left beside the full file.
  assert not (follower.weights_root / delta(3)).exists()


def test_after_a_failure_the_next_file_is_full(follower):
  sender = weight_sync.WeightSender(follower, ServingConfig())
  sender.send(owned(big()), 1)
  follower.down = True
  with pytest.raises(ServerDown):
    sender.send(owned(stepped(big(), 1)), 2)
  follower.down = False
  sender.send(owned(stepped(big(), 1)), 2)
  assert follower.took == [full(1), full(2)]


def test_a_trainer_says_restart_until_it_has_sent(follower):
  sender = weight_sync.WeightSender(follower, ServingConfig())
  follower.down = True
  with pytest.raises(ServerDown):
    sender.send(owned(big()), 5)
  follower.down = False
  for version in (5, 6, 7):
    sender.send(owned(big()), version)
  assert follower.restarts == [True, False, False]
  # One that resumes from an older checkpoint, beside the server of before.
  weight_sync.WeightSender(follower, ServingConfig()).send(owned(big()), 3)
  assert follower.restarts[3:] == [True]


def test_the_same_version_again_is_full(follower):
  sender = weight_sync.WeightSender(follower, ServingConfig())
  sender.send(owned(big()), 1)
  sender.send(owned(big()), 1)
  assert follower.took == [full(1), full(1)]


def test_every_so_often_a_full_file(follower):
  sender = weight_sync.WeightSender(follower, ServingConfig(full_every=3))
  for version in range(1, 8):
    sender.send(owned(big()), version)
  assert [f == full(i) for i, f in enumerate(follower.took, 1)] == [
    True, False, False, True, False, False, True,
  ]  # fmt: skip


def test_deltas_can_be_turned_off(follower):
  sender = weight_sync.WeightSender(
    follower, ServingConfig(publish_changes=False)
  )
  sender.send(owned(big()), 1)
  sender.send(owned(big()), 2)
  assert follower.took == [full(1), full(2)]


def test_a_smaller_version_begins_anew(teacher):
  sender = weight_sync.WeightSender(teacher, ServingConfig())
  for version in (3, 1_000_000, 3, 4):
    assert not sender.send(owned(tensors(version)), version).is_delta
  # A server refuses what does not follow, unless it is told so.
  assert teacher.restarts == [True, False, True, False]
