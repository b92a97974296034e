"""Who and what comes in at a real teacher and a real student."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from atlas_jax.config import ServingConfig
from atlas_jax.serving import weight_sync
from atlas_jax.serving.client import Sampling, ServerDown, ServerError
from atlas_jax.serving.supervisor import descendants
from tests.processes import running, wait_until
from tests.serving import publications
from tests.serving.pair import held, publish, said, sample, weights, write

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_the_key_is_needed(vllm_servers):
  teacher = vllm_servers.teacher
  key, teacher.api_key = teacher.api_key, "wrong"
  try:
    with pytest.raises(ServerError, match="401"):
      held(teacher)
    with pytest.raises(ServerError, match="401"):
      sample(teacher)
  finally:
    teacher.api_key = key


def status_of(server, request: str) -> int:
  """The status of a request sent as it stands."""
  with socket.create_connection(("127.0.0.1", server.port), 10) as s:
    s.sendall(request.replace("\n", "\r\n").encode("latin-1"))
    return int(s.recv(4096).split()[1])


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_no_path_but_health_answers_without_the_key(vllm_servers, role):
  server = getattr(vllm_servers, role)
  status, text = server._request("GET", "/openapi.json", timeout_s=30)
  paths = {
    (method.upper(), path)
    for path, methods in json.loads(text)["paths"].items()
    for method in methods
  }
  assert status == 200 and ("POST", "/invocations") in paths
  assert ("POST", "/tokenize") in paths and len(paths) > 20
  paths |= {("GET", "/metrics"), ("GET", "/docs"), ("OPTIONS", "/v1/models")}
  paths |= {("GET", p) for p in ("//health", "/health/", "/healthz", "/%2e")}
  paths |= {("GET", "http://x/metrics"), ("GET", "/health/../v1/models")}
  for method, path in sorted(paths - {("GET", "/health")}):
    bare = f"{method} {path} HTTP/1.1\nHost: x\nContent-Length: 0\n"
    assert status_of(server, bare + "\n") == 401, path
    wrong = f"{bare}Authorization: Bearer x\n\n"
    assert status_of(server, wrong) == 401, path
  twice = f"Authorization: Bearer {server.api_key}\n" * 2
  assert status_of(server, f"GET /metrics HTTP/1.1\nHost: x\n{twice}\n") == 401
  for path in ("/v1/realtime", "/health", "/metrics"):
    upgrade = (
      f"GET {path} HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\n"
      "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
    )
    assert status_of(server, upgrade + "\n") in (401, 403), path
  assert status_of(server, "GET /health HTTP/1.1\nHost: x\n\n") == 200
  assert server._request("GET", "/metrics", timeout_s=30)[0] == 200
  for path in ("/invocations", "/tokenize", "/scale_elastic_ep", "/load"):
    assert server._request("POST", path, {}, timeout_s=30)[0] == 404, path


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_key_is_in_no_command_line_and_in_no_log(vllm_servers, role):
  server = getattr(vllm_servers, role)
  process = server._process.pid
  tree = [process, *descendants(process)]
  assert len(tree) >= 3
  for pid in tree:
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert server.api_key.encode() not in command
  assert "vLLM" in server.log.text()
  assert server.api_key not in server.log.text()


def samples_now(teacher) -> bool:
  """Whether requests are under way."""
  _, text = teacher._request("GET", "/metrics", timeout_s=30)
  (count,) = re.findall(rb"^vllm:num_requests_running\S* (\S+)$", text, re.M)
  return float(count) > 0


@contextlib.contextmanager
def long_answers(teacher):
  """The teacher is busy for seconds: an update must wait."""

  def ask():
    with contextlib.suppress(ServerDown):
      sample(teacher, (1, 4), Sampling(480, 1.0, n=64))

  asking = threading.Thread(target=ask)
  asking.start()
  assert wait_until(lambda: samples_now(teacher), 10)
  yield
  asking.join()


@contextlib.contextmanager
def waiting_update(teacher, manifest):
  """Has an update checked and wait; yields a list that gets its outcome."""
  outcome = []

  def send():
    args = (manifest.files, str(manifest.version), manifest.checksums)
    try:
      outcome.append(teacher.update_weights(*args, timeout_s=60))
    except ServerError as error:
      outcome.append(error)

  with long_answers(teacher):
    update = threading.Thread(target=send)
    update.start()
    time.sleep(0.5)  # a check takes a few hundredths
    assert teacher._request("GET", "/v1/atlas/weights", timeout_s=9)[0] == 409
    yield outcome
    update.join()


def write_delta(old, new, teacher, version):
  base = version - 1, old
  return publications.write(new, teacher.weights_root, version, base)


def overwrite(path):
  size = path.stat().st_size
  with path.open("r+b") as f:
    f.seek(size // 2)
    f.write(bytes(range(256)) * (size // 512))


DEEDS = {"overwritten": overwrite, "cut": lambda path: os.truncate(path, 99)}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("kind", ["full", "delta"])
def test_a_file_that_changes_while_its_update_waits(vllm_servers, kind, deed):
  teacher = vllm_servers.teacher
  publish(weights(0), vllm_servers, 1)
  if kind == "full":
    manifest = write(weights(1), teacher, 2)
  else:
    manifest = write_delta(weights(0), weights(1), teacher, 2)
  with waiting_update(teacher, manifest) as outcome:
    (name,) = manifest.files
    DEEDS[deed](teacher.weights_root / name)
    assert outcome == []
  assert outcome[0]["version"] == "2"
  assert held(teacher) == {"version": "2", "checksums": manifest.checksums}
  assert said(sample(teacher)) == said(sample(vllm_servers.student))


def test_odd_updates_are_400(vllm_servers):
  teacher = vllm_servers.teacher
  publish(weights(0), vllm_servers, 5)
  root = teacher.weights_root
  for name in ("loop", "fifo"):
    (root / name).unlink(missing_ok=True)
  (root / "loop").symlink_to(root / "loop")
  os.mkfifo(root / "fifo")
  manifest = write(weights(0), teacher, 4)
  (good,) = manifest.files
  sums = manifest.checksums
  for path in ("\0", "loop", "d/" * 2000, "fifo", ".", "/dev/zero", good):
    body = {"files": {path: "0"}, "version": "4", "checksums": sums}
    status, answer = teacher._request(
      "POST", "/v1/atlas/update", body, timeout_s=30
    )
    assert status == 400 and b"Traceback" not in answer, path
  assert b"holds version 5, which 4 does not follow" in answer
  for text in ("[" * 100_000, '{"files": {"\\ud800": ""}}', "\xff"):
    head = (
      f"POST /v1/atlas/update HTTP/1.1\nHost: x\nContent-Length: {len(text)}\n"
      f"Authorization: Bearer {teacher.api_key}\n\n"
    )
    assert status_of(teacher, head + text) == 400, text[:9]
  # Said explicitly, it goes back.
  teacher.update_weights(manifest.files, "4", sums, 60, restart=True)
  assert sample(teacher)[0].weight_version == 4


def test_a_dead_engine_ends_the_server_which_is_restarted(
  vllm_servers, forking
):
  teacher = vllm_servers.teacher
  sender = weight_sync.WeightSender(
    teacher, ServingConfig(request_timeout_s=60)
  )
  sender.send(publications.owned(weights(1)), 11)
  before = sample(teacher)
  tree = descendants(teacher._process.pid)
  assert len(tree) >= 2  # the API server and its engine
  manifest = write(weights(0), teacher, 12)
  with waiting_update(teacher, manifest) as outcome:
    os.kill(tree[-1], signal.SIGKILL)  # nobody would ever answer the update
    assert wait_until(lambda: not teacher.alive(), 20)
  assert isinstance(outcome[0], ServerDown)
  assert teacher._process.returncode == 1
  assert "the engine is dead: this server ends now" in teacher.log.text()
  assert wait_until(lambda: not any(map(running, tree)), 10)
  teacher.restart()
  assert sample(teacher)[0].weight_version == "default"
  # Nothing changed, but the new server does not hold it: all is sent.
  assert sender.send(publications.owned(weights(1)), 12).is_delta is False
  assert said(sample(teacher)) == said(before)
  assert sender.send(publications.owned(weights(1)), 13).is_delta is True
  publish(weights(0), vllm_servers, 14)  # as the server started
