"""Two real processes over gloo."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from atlas_jax import multihost
from atlas_jax.config import OptimizerConfig
from atlas_jax.training import optimizer, step
from tests.model import tiny as model_files
from tests.processes import told
from tests.training import tiny

_ROOT = pathlib.Path(__file__).resolve().parent.parent


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  """Where both work; the model there has numbers that are none, too."""
  directory = tmp_path_factory.mktemp("both")
  source = directory / "model"
  three = {"num_hidden_layers": 3}  # the last one in a round of its own
  model_files.save_model(source, "qwen3", dtype=torch.bfloat16, **three)
  file = source / "model.safetensors"
  tensors = load_file(file)
  v = tensors["model.layers.0.self_attn.v_proj.weight"].view(np.uint16)
  assert 0x3F81 not in v
  v[0, :3] = 0x3F81, 0x8001, 0x0001  # with the smallest numbers of all
  save_file(tensors, file, metadata={"format": "pt"})
  return directory


@pytest.fixture(scope="module")
def results(directory):
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_ROOT)}
  workers = [
      subprocess.Popen(
          [sys.executable, str(_ROOT / "tests" / "multihost_worker.py"),
           str(port), "2", str(i), str(directory)],
          env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      )
      for i in range(2)
  ]  # fmt: skip
  outputs = []
  try:
    for worker in workers:
      outputs.append(worker.communicate(timeout=300)[0])
  finally:
    for worker in workers:
      worker.kill()
  return told(workers, outputs)


def test_two_processes_one_lead(results):
  assert [r["count"] for r in results] == [2, 2]
  assert [r["lead"] for r in results] == [True, False]
  assert [r["sum"] for r in results] == [8.0, 8.0]


def test_all_get_what_the_lead_has(results):
  for r in results:
    assert r["broadcast"] == {"answer": [1, "é", None], "rank": 0}
    assert r["long"] == 70000
    assert r["called"] == {"from": 0}


def test_all_get_what_each_has(results):
  for r in results:
    assert r["gathered"] == [[1, 2**32 - 1], [2, 2**32 - 1]]


def test_a_failure_of_the_lead_reaches_all(results):
  assert results[0]["error"] == ["ValueError", "server gone"]
  assert results[1]["error"] == [
    "LeadError",
    "the lead process failed: ValueError: server gone",
  ]
  assert [r["not_json"] for r in results] == ["TypeError", "LeadError"]


def test_two_processes_train_and_save_as_one(results):
  tx, schedule = optimizer.make_optimizer(OptimizerConfig(), 10)
  objective = step.sft_objective(tiny.ARCHITECTURE, tiny.OPTIONS)
  train = step.make_train_step(objective, tx, schedule, skip_grad_norm=None)
  _, metrics = train(step.init_state(tiny.model(), tx), tiny.batch(2))
  for r in results:
    assert r["train"]["restored"] is True
    assert r["train"]["extra"] == {"next": 5}
    for name in ("loss", "grad_norm"):
      expected = float(metrics.sums[name][0])
      assert r["train"][name] == pytest.approx(expected, rel=1e-5)


def test_what_one_process_cannot_read_both_pass_by(results):
  for r in results:
    fallen = r["fallen"]
    assert (fallen["step"], fallen["extra"]) == (1, {"n": 1})
    assert fallen["same"] is True
    first, second = fallen["said"]
    assert "checkpoint 2 in " in first
    assert "cannot be read by process 1: " in first
    assert second == "going on from checkpoint 1, the newest whole one"


def test_all_wait_until_they_see_the_steps_that_the_lead_sees(
  results, directory
):
  for r in results:
    late, blind = r["fallen"]["listed"]
    assert late == 2
    assert blind.startswith("of 2 processes these do not see what the lead")
    assert f"sees in {directory / 'two'}: [1]" in blind


def test_where_the_disk_of_one_process_fails_both_end(results):
  for r in results:
    kind, text = r["fallen"]["unread"]
    assert kind == "CheckpointError" and text.startswith("checkpoint 2 in ")
    assert "cannot be read by process 1: [Errno 116] Stale" in text


def test_weights_that_one_process_cannot_read_both_refuse(results, directory):
  files, bytes_ = results[1]["weights"]["unread"]
  assert files[0] == "ArchitectureError" and str(directory / "bare") in files[1]
  assert bytes_ == ["OSError", "Input/output error"]
  assert results[0]["weights"]["unread"] == [
    ["HostsError", f"process 1 failed: {kind}: {text}"]
    for kind, text in (files, bytes_)
  ]


def _tensors(directory):
  found = {}
  for file in sorted(directory.glob("*.safetensors")):
    found |= {name: (file.name, x) for name, x in load_file(file).items()}
  return found


def test_both_read_each_byte_once(results, directory):
  stored = _tensors(directory / "model")
  size = sum(x.nbytes for _, x in stored.values())
  read = [r["weights"]["read"] for r in results]
  assert sum(read) == size and max(read) < 0.6 * size
  names = [f"model.layers.{i}.self_attn.v_proj.weight" for i in range(3)]
  v = np.stack([stored[name][1].view(np.uint16) for name in names])
  for r, columns in zip(results, (v[..., :16], v[..., 16:]), strict=True):
    assert r["weights"]["v"] == columns.ravel().tolist()


def test_both_write_a_file_each(results, directory):
  stored, both, lead = (
    _tensors(directory / name) for name in ("model", "out/both", "out/lead")
  )
  assert stored.keys() == both.keys() == lead.keys()
  for name, (_, x) in stored.items():
    for _, y in (both[name], lead[name]):
      assert (x.dtype, x.tobytes()) == (y.dtype, y.tobytes()), name
  index = json.loads(
    (directory / "out/both/model.safetensors.index.json").read_text()
  )
  assert index["weight_map"] == {name: f for name, (f, _) in both.items()}
  assert {f for f, _ in lead.values()} == {"model.safetensors"}
  size = sum(x.nbytes for _, x in stored.values())
  assert index["metadata"]["total_size"] == size
  for i in (1, 2):
    file = f"model-{i:05}-of-00002.safetensors"
    own = sum(x.nbytes for f, x in both.values() if f == file)
    assert 0.3 * size < own < 0.7 * size


def test_what_only_one_process_sees_both_refuse(results, directory):
  says = [r["weights"]["refused"] for r in results]
  kind, text = says[1]
  assert kind == "WeightsError" and (
    "model.layers.1.input_layernorm.weight has values" in text
  )
  assert says[0] == ["HostsError", f"process 1 failed: WeightsError: {text}"]
  names = sorted(p.name for p in (directory / "out").iterdir())
  assert names == ["both", "lead"]


def test_one_process_sends_nothing():
  assert multihost.is_lead()
  value = {"a": (1, 2)}
  assert multihost.broadcast_json(value) is value
  assert multihost.gather(np.array([1, 2])).tolist() == [[1, 2]]
  assert multihost.call_on_lead(lambda: 7) == 7
  with pytest.raises(ValueError, match="gone"):
    multihost.call_on_lead(lambda: (_ for _ in ()).throw(ValueError("gone")))


def test_processes_with_different_numbers_of_devices(monkeypatch):
  multihost.check_devices()
  owners = [types.SimpleNamespace(process_index=0)] * 8
  owners += [types.SimpleNamespace(process_index=1)] * 7
  monkeypatch.setattr(multihost.jax, "devices", lambda: owners)
  monkeypatch.setattr(multihost.jax, "process_count", lambda: 2)
  with pytest.raises(multihost.HostsError, match="process 0: 8, process 1: 7"):
    multihost.check_devices()
