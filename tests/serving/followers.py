"""Stand-ins for servers that take weights, and weights to send to them."""

import ml_dtypes
import numpy as np
from safetensors import safe_open

from atlas_jax.serving.http import ServerDown, WeightsRefused
from tests.serving import delta_oracle, tiny_vllm
from tests.serving.checksum_oracle import checksum


class Held(tiny_vllm.TeacherServer):
  """A teacher server that keeps what it is told."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.restarts = []

  def update_weights(self, files, version, checksums, timeout_s, restart):
    self.restarts.append(restart)
    self.version, self.sums = version, dict(checksums)
    return {"seconds_check": 0.0, "seconds_apply": 0.0}


class Follower(Held):
  """Holds what it is sent, by the oracle's reading, and checks its base."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.tensors, self.version, self.took, self.down = None, None, [], False

  def update_weights(self, files, version, checksums, timeout_s, restart):
    if self.down:
      raise ServerDown("gone")
    (path,) = files
    with safe_open(self.weights_root / path, framework="np") as f:
      entries = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
      metadata = f.metadata() or {}
    if "base" in metadata:
      if metadata["base"] != self.version:
        raise WeightsRefused(f"holds {self.version}, not {metadata['base']}")
      assert metadata["version"] == version
      self.tensors = delta_oracle.apply(self.tensors, entries)
    else:
      self.tensors = entries
    self.took.append(path)
    return super().update_weights(files, version, checksums, timeout_s, restart)

  def restart(self):
    self.tensors, self.version = None, None


def big(seed=0):
  rng = np.random.default_rng(seed)
  made = {"a": rng.normal(size=(40, 50)), "b": rng.normal(size=(30,))}
  made["c"] = rng.normal(size=(300, 500)).T
  return {k: v.astype(ml_dtypes.bfloat16) for k, v in made.items()}


def stepped(tensors, seed, fraction=0.01):
  """A copy in which about `fraction` of a's and c's values are others."""
  rng = np.random.default_rng(seed)

  def step(t):
    where = rng.random(t.shape) < fraction
    return np.where(where, t + t.dtype.type(1), t)

  return {k: t if k == "b" else step(t) for k, t in tensors.items()}


def assert_follows(follower, tensors):
  for name, tensor in tensors.items():
    got = follower.tensors[name].view(np.uint16)
    np.testing.assert_array_equal(got, tensor.view(np.uint16))
    assert follower.sums[name] == checksum(tensor)


def full(version):
  return f"weights-{version:08d}.safetensors"


def delta(version):
  return f"weights-{version:08d}.delta.safetensors"
