"""One server of two engines that takes its weights by HTTP."""

import re
import socket
from pathlib import Path

import pytest

from atlas_jax.config import ServingConfig
from atlas_jax.serving import weight_sync
from atlas_jax.serving.client import Sampling, ServerError
from atlas_jax.serving.supervisor import descendants
from tests.serving import publications, tiny_vllm
from tests.serving.pair import held, said, sample, weights

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def listening(pids) -> set[str]:
  """The addresses, as in /proc/net, at which these processes listen."""
  links = set()
  for pid in pids:
    for fd in Path(f"/proc/{pid}/fd").iterdir():
      try:
        links.add(str(fd.readlink()))
      except OSError:  # closed by now
        continue
  found = set()
  for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
      words = line.split()
      if words[3] == "0A" and f"socket:[{words[9]}]" in links:
        found.add(words[1].partition(":")[0])
  return found


def by_engine(teacher) -> dict[str, int]:
  """Requests that each engine has answered."""
  _, text = teacher._request("GET", "/metrics", timeout_s=30)
  found: dict[str, int] = {}
  for line in text.decode().splitlines():
    match = re.match(
      r'vllm:request_success_total{.*engine="(\d+)".* (\S+)$', line
    )
    if match:
      found[match[1]] = found.get(match[1], 0) + int(float(match[2]))
  return found


def test_two_engines_hold_what_came_by_http(tmp_path, vllm_servers, forking):
  old = tiny_vllm.save_model(tmp_path / "old", seed=0)
  want = said(sample(vllm_servers.student))  # started on weights(1)
  teacher = tiny_vllm.teacher(old, tmp_path, replicas=2)
  with tiny_vllm.started(teacher):
    # Files of the trainer lie elsewhere.
    root, trainer = teacher.weights_root, tmp_path / "trainer"
    teacher.workdir = trainer
    sender = weight_sync.WeightSender(teacher, ServingConfig(weights="http"))
    tensors = weights(1)
    sums = publications.checksums(tensors)
    for version, now in ((1, weights(0)), (2, tensors)):
      sender.send(publications.owned(now), version)
    assert sender._roads[0].by_http
    small = {n: t.copy() for n, t in tensors.items()}
    small["model.norm.weight"][3] += 1
    assert sender.send(publications.owned(small), 3).is_delta
    assert sender.send(publications.owned(tensors), 4).is_delta
    (received,) = root.glob("received-*")
    assert list(received.iterdir()) == []
    # Each engine answers, with the new weights.
    for seed in range(8):
      done = sample(teacher, sampling=Sampling(4, 1.0, seed=seed))
      assert done[0].weight_version == 4
    assert said(sample(teacher)) == want
    counts = by_engine(teacher)
    assert set(counts) == {"0", "1"} and min(counts.values()) > 0
    # A file that was lost, or is half there.
    name = "weights-00000005.safetensors"
    (received / f"{name}.partial").write_bytes(b"half")
    with pytest.raises(ServerError, match="is not a file under"):
      teacher.update_weights({name: "0" * 64}, "5", sums, 60)
    assert held(teacher) == {"version": "4", "checksums": sums}
    # What engines say to each other stays on this machine.
    pids = descendants(teacher._process.pid)
    loopback = {socket.inet_aton("127.0.0.1")[::-1].hex().upper()}
    assert len(pids) >= 3 and listening(pids) == loopback
