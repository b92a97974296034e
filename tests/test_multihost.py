"""Two real processes over gloo."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from atlas_jax import multihost
from atlas_jax.config import OptimizerConfig
from atlas_jax.training import optimizer, step
from tests.training import tiny

_ROOT = pathlib.Path(__file__).resolve().parent.parent


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
  directory = tmp_path_factory.mktemp("checkpoints")
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
  found = []
  for worker, output in zip(workers, outputs, strict=True):
    assert worker.returncode == 0, output[-4000:]
    (line,) = [x for x in output.splitlines() if x.startswith("RESULT ")]
    found.append(json.loads(line.removeprefix("RESULT ")))
  return found


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
  monkeypatch.setattr(multihost, "gather", lambda x: np.array([8, 7]))
  with pytest.raises(multihost.HostsError, match="process 0: 8, process 1: 7"):
    multihost.check_devices()
