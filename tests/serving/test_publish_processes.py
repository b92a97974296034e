"""Several processes publish one model: files, checksums, memory."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from atlas_vllm import checksum, delta, destinations, weights_file
from atlas_vllm.destinations import Box, Place

from atlas_jax.model.owned import iter_owned
from tests.processes import told
from tests.serving import publish_worker
from tests.training import tiny

_ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def run(directory, processes, size):
  """What each process printed; 8 devices over all."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  count = 8 // processes
  flags = f"--xla_force_host_platform_device_count={count}"
  env = os.environ | {"XLA_FLAGS": flags}
  command = [sys.executable, "-m", "tests.serving.publish_worker", str(port)]
  rest = [str(directory), size]
  workers = [
    subprocess.Popen(
      [*command, str(processes), str(i), *rest],
      **{"env": env, "cwd": _ROOT, "text": True},
      **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
    )
    for i in range(processes)
  ]
  try:
    outputs = [worker.communicate(timeout=400)[0] for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  return told(workers, outputs)


def read(root, version, shapes):
  """(manifest, what the server reads and checks of it)."""
  manifest = json.loads((root / f"weights-{version:08d}.json").read_text())
  most = weights_file.most_bytes(shapes, torch.bfloat16)
  _, entries = weights_file.read_all(root, manifest["files"], most)
  if manifest["base"] is not None:
    return manifest, delta.parse(entries, shapes, torch.bfloat16)
  pieces = weights_file.check(
    entries, shapes, torch.bfloat16, manifest["checksums"]
  )
  return manifest, pieces


def whole(model, config):
  """name -> tensor of a model on one device."""
  boxes = {}
  for owned in iter_owned(model, config, jnp.bfloat16):
    boxes |= owned.boxes
  return {
    name: torch.from_numpy(box.view(np.int16)).view(torch.bfloat16)
    for name, box in boxes.items()
  }


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  """(what 2 processes printed, where their files are)."""
  directory = tmp_path_factory.mktemp("published")
  return run(directory, 2, "tiny"), directory / "weights"


def test_two_processes_publish_what_one_has(published):
  found, root = published
  models = [tiny.model()]
  models += [publish_worker.stepped(models[0])]
  models += [publish_worker.stepped(models[1])]
  tensors = [whole(model, tiny.ARCHITECTURE) for model in models]
  shapes = {name: tuple(t.shape) for name, t in tensors[0].items()}
  assert found[0]["sent"] == found[1]["sent"]
  assert [is_delta for is_delta, _ in found[0]["sent"]] == [False, True, False]
  # Two versions are kept: the delta, and the full files of the third.
  manifest, changes = read(root, 2, shapes)
  assert len(manifest["files"]) == 2 and manifest["base"] == 1
  old, new = tensors[:2]
  assert changes
  for name in shapes:
    made = old[name].clone()
    if name in changes:
      made.view(-1)[changes[name].indices] = changes[name].values
    assert torch.equal(made.view(torch.int16), new[name].view(torch.int16))
    want = checksum.text(checksum.of_box(new[name]))
    assert manifest["checksums"][name] == want
  manifest, pieces = read(root, 3, shapes)
  assert manifest["base"] is None
  for name, parts in pieces.items():
    tensor = torch.empty(shapes[name], dtype=torch.bfloat16)
    rows, width = len(tensor), tensor[0].numel()
    place = Place(tensor.view(rows, width), Box(0, 0, rows, width))
    destinations.write([place], parts)
    assert torch.equal(tensor, tensors[2][name])
  # Some tensors are cut both ways, and lie in both files.
  assert max(map(len, pieces.values())) == 4


def test_each_tensor_is_sent_by_one_and_both_send_half(published):
  found, root = published
  of_all = sum(r["own"] for r in found)
  tensors = whole(tiny.model(), tiny.ARCHITECTURE)
  assert of_all == sum(t.nbytes for t in tensors.values())
  assert all(0.4 * of_all < r["own"] < 0.6 * of_all for r in found)
  # No refused delta is left beside the full files.
  assert not list(root.glob("weights-00000003*.delta.*"))


def test_a_failure_of_one_process_is_one_of_all(published):
  (lead, other), _ = published
  assert other["error"][0] == "ZeroDivisionError"
  kind, text = lead["error"]
  assert kind == "HostsError"
  assert text.startswith("process 1 failed: ZeroDivisionError: ")


def test_no_process_holds_the_model(tmp_path):
  """0.7 GB in bfloat16, on 8 devices of 4 processes: about half of it."""
  found = run(tmp_path, 4, "0.7")
  size = sum(r["own"] for r in found)
  print(json.dumps(found))
  bound = 1.3 * size / 4 + 130e6
  assert bound < size / 2 + 20e6
  for r in found:
    assert max(r["growth"]) <= bound, (r, bound)
    # The copy that stays is in it: less would mean that nothing was measured.
    assert r["growth"][0] > 0.5 * size / 4
