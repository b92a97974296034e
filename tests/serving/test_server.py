"""Starting servers, with stand-ins for vLLM where it would only be slow."""

import asyncio
import contextlib
import http.server
import json
import socket
import sys
import threading
import time

import pytest

from atlas_jax.hub import HubError
from atlas_jax.server_config import ServerConfig, ServingConfig
from atlas_jax.serving import server, vllm_command
from atlas_jax.serving.client import ServerDown, ServerError
from atlas_jax.serving.server import StudentServer, TeacherServer
from tests.serving import tiny_vllm


@pytest.fixture
def model(tmp_path):
  path = tmp_path / "model"
  path.mkdir()
  (path / "config.json").write_text("{}")
  return path


def make(cls, model, tmp_path, *, timeout=5.0, **config):
  return cls(
    ServerConfig(**config),
    model_path=model,
    workdir=tmp_path,
    start_timeout_s=timeout,
  )


def stand_in(cls, code):
  """A server class whose process runs Python code instead of vLLM."""

  class StandIn(cls):
    def _command(self):
      return ["-u", "-c", code, str(self.port)], {}

  return StandIn


HEALTHY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    ok = self.path in ("/health", "/inference/v1/generate")
    self.send_response(200 if ok else 404)
    self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_healthy_restart_and_end(model, tmp_path):
  s = make(stand_in(StudentServer, HEALTHY), model, tmp_path)
  with tiny_vllm.started(s):
    url = s.base_url
    assert s.healthy() and s.alive()
    with pytest.raises(ServerError, match="runs already"):
      s.spawn()
    s.restart()
    assert s.healthy() and s.base_url == url
  assert not s.healthy() and not s.alive()


def test_port_in_use(model, tmp_path):
  with socket.socket() as other:
    other.bind(("127.0.0.1", 0))
    other.listen()
    port = other.getsockname()[1]
    begin = time.monotonic()
    with pytest.raises(
      ServerError, match=rf"port {port} .*config\.serving\.student\.port"
    ):
      server.start(make(StudentServer, model, tmp_path, port=port))
    assert time.monotonic() - begin < 1


def test_no_model(tmp_path):
  with pytest.raises(HubError, match="nowhere is neither a directory nor"):
    server.start(make(StudentServer, tmp_path / "nowhere", tmp_path))
  (tmp_path / "empty").mkdir()
  with pytest.raises(ServerError, match=r"empty .*no config\.json"):
    server.start(make(StudentServer, tmp_path / "empty", tmp_path))


def test_dies_while_starting(model, tmp_path):
  code = """
print("WARNING this can cause errors like `OSError: too many files`")
print("(Engine pid=3) ERROR 11-24 [core.py:1] ValueError: out of memory, alas")
print("EngineDeadError: see above")
for i in range(100): print("line", i)
raise SystemExit(3)
"""
  s = make(stand_in(TeacherServer, code), model, tmp_path)
  s.log.path.parent.mkdir()
  s.log.path.write_text("KeyError: of an earlier run\n")
  with pytest.raises(ServerError) as error:
    server.start(s)
  first, end_of, *lines = str(error.value).splitlines()
  assert first.endswith("with exit status 3: ValueError: out of memory, alas")
  assert str(s.log.path) in end_of
  assert lines[0] == "line 75" and lines[-1] == "line 99"


def test_never_healthy_and_the_other_server_is_ended(model, tmp_path):
  good = make(stand_in(StudentServer, HEALTHY), model, tmp_path)
  hangs = "print('still thinking'); import time; time.sleep(60)"
  bad = make(stand_in(TeacherServer, hangs), model, tmp_path, timeout=1.0)
  with pytest.raises(
    ServerError, match=r"(?s)teacher .*not healthy within 1 s.*still thinking"
  ):
    server.start(good, bad)
  assert not good.alive() and not bad.alive()


@pytest.fixture
def web():
  """(url, set of paths that are there) of a server of somebody else."""
  paths = {"/health"}

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200 if self.path in paths else 404)
      self.end_headers()

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as s:
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{s.server_port}", paths
    s.shutdown()


def test_a_url_is_checked_and_left_alone(web, tmp_path):
  url, paths = web
  student = make(StudentServer, "unused", tmp_path, url=url)
  teacher = make(TeacherServer, "unused", tmp_path, url=url)
  with pytest.raises(ServerError, match="generate with 404"):
    server.start(student)
  paths.add("/inference/v1/generate")
  server.start(student)
  with pytest.raises(ServerError, match="weights with 404 instead of 200"):
    server.start(teacher)
  paths.add("/v1/atlas/weights")
  server.start(teacher)
  # A student that takes weights is none.
  with pytest.raises(ServerError, match="with 200 instead of 404"):
    server.start(student)
  student.end()
  assert student.alive() and not (tmp_path / "logs").exists()
  with pytest.raises(ServerError, match="not started by this run"):
    student.restart()


def test_a_url_where_nobody_listens(tmp_path):
  url = "http://127.0.0.1:9"
  s = make(StudentServer, "unused", tmp_path, url=url, timeout=0.5)
  with pytest.raises(ServerError, match=r"127.0.0.1:9 was not healthy"):
    server.start(s)
  with pytest.raises(ServerDown, match="does not answer"):
    make(TeacherServer, "unused", tmp_path, url=url).update_weights(
      {}, "1", {}, 1
    )


class Busy(http.server.BaseHTTPRequestHandler):
  """409 until the third request, then 200 with its body and the seconds."""

  asked = 0

  def do_POST(self):
    body = self.rfile.read(int(self.headers["Content-Length"]))
    body = body[:-1] + b', "seconds_check": 0, "seconds_apply": 0}'
    Busy.asked += 1
    self.send_response(409 if Busy.asked < 3 else 200)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *_):
    pass


def test_an_update_waits_for_the_one_before(tmp_path, monkeypatch):
  monkeypatch.setattr(server.time, "sleep", lambda _: None)
  monkeypatch.setattr(Busy, "asked", 0)
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as busy:
    threading.Thread(target=busy.serve_forever).start()
    url = f"http://127.0.0.1:{busy.server_port}"
    teacher = make(TeacherServer, "unused", tmp_path, url=url)
    try:
      assert teacher.update_weights({}, "7", {}, 9)["version"] == "7"
      assert Busy.asked == 3
      Busy.asked = -10_000
      with pytest.raises(ServerDown):
        teacher.update_weights({}, "7", {}, 0.3)  # no time is left to wait
    finally:
      busy.shutdown()


def test_only_the_teacher_can_take_weights(model, tmp_path):
  student = make(StudentServer, model, tmp_path)
  teacher = make(TeacherServer, model, tmp_path)
  frozen, frozen_env = student._command()
  open_, open_env = teacher._command()
  assert "--weight-transfer-config" not in frozen
  assert frozen_env["VLLM_PLUGINS"] == ""
  assert not hasattr(student, "update_weights")
  assert json.loads(open_[open_.index("--additional-config") + 1]) == {
    "atlas_weights_root": str(teacher.weights_root)
  }
  assert open_env["VLLM_PLUGINS"] == "atlas_weights,atlas_update"
  assert frozen_env["VLLM_API_KEY"] != open_env["VLLM_API_KEY"]


@pytest.mark.parametrize("cls", [StudentServer, TeacherServer])
@pytest.mark.parametrize("given", [None, "", "mine"])
def test_no_server_is_started_without_a_guard_and_a_key(
  cls, given, model, tmp_path
):
  s = cls(
    ServerConfig(host="0.0.0.0"),  # beyond loopback, too
    model_path=model,
    workdir=tmp_path,
    start_timeout_s=1,
    api_key=given,
  )
  words, env = s._command()
  assert words[words.index("--middleware") + 1] == "atlas_vllm.guard.Guard"
  assert env["VLLM_API_KEY"] == s.api_key
  assert s.api_key == given if given else len(s.api_key) == 32
  assert not any(s.api_key in word for word in words)  # ps shows them


def test_settings_of_the_config_reach_the_command(model, tmp_path):
  s = make(
    StudentServer,
    model,
    tmp_path,
    dtype="float32",
    max_model_len=77,
    max_num_seqs=5,
    kv_cache_bytes=4096,
    extra_args=("--seed", "3"),
  )
  words, _ = s._command()
  for flag, value in (
    ("--dtype", "float32"),
    ("--max-model-len", "77"),
    ("--max-num-seqs", "5"),
    ("--kv-cache-memory-bytes", "4096"),
    ("--seed", "3"),
  ):
    assert words[words.index(flag) + 1] == value


@pytest.mark.parametrize(
  "cores, threads", [("3", "1"), ("0-3", "4"), ("0-1,6,8-9", "5")]
)
def test_cpu_cores(cores, threads):
  config = ServerConfig(cpu_cores=cores)
  flags, env = vllm_command.device_settings("cpu", config)
  assert env["OMP_NUM_THREADS"] == threads and "--enforce-eager" in flags
  assert env["VLLM_CPU_OMP_THREADS_BIND"] == cores
  assert vllm_command.device_settings("cuda", config) == ([], {})


@pytest.mark.parametrize(
  "config, head_dim",
  [
    ({"hidden_size": 64, "num_attention_heads": 4}, 16),
    ({"hidden_size": 64, "num_attention_heads": 2, "head_dim": 48}, 48),
    ({"hidden_size": 64, "num_attention_heads": 2, "head_dim": None}, None),
    ({"hidden_size": 48, "num_attention_heads": 2, "head_dim": 32}, None),
  ],
)
def test_head_dim_that_vllm_lacks_on_a_cpu(tmp_path, config, head_dim):
  (tmp_path / "config.json").write_text(json.dumps(config))
  vllm_command.check_model(tmp_path, "cuda")
  if head_dim is None:
    vllm_command.check_model(tmp_path, "cpu")
  else:
    with pytest.raises(ServerError, match=f"head_dim {head_dim} .*32, 64"):
      vllm_command.check_model(tmp_path, "cpu")


def test_cpu_cores_that_are_none():
  with pytest.raises(ServerError, match="cpu_cores='all'"):
    vllm_command.device_settings("cpu", ServerConfig(cpu_cores="all"))


@pytest.mark.parametrize(
  "installed, device",
  [
    ({"vllm-cpu": "0.32.0"}, "cpu"),
    ({"vllm": "0.32.0+cpu"}, "cpu"),
    ({"vllm": "0.32.0"}, "cuda"),
    ({"vllm-tpu": "0.32.0", "vllm": "0.32.0"}, "tpu"),
  ],
)
def test_device_of_the_installed_build(monkeypatch, installed, device):
  monkeypatch.setattr(vllm_command, "_version", installed.get)
  assert vllm_command.vllm_device() == device


def test_no_vllm(monkeypatch):
  monkeypatch.setattr(vllm_command, "_version", lambda name: None)
  with pytest.raises(ServerError, match="vLLM is not installed"):
    vllm_command.vllm_device()


def test_the_interpreter_is_ours(model, tmp_path):
  code = "import sys; print(sys.executable); raise SystemExit(1)"
  s = make(stand_in(StudentServer, code), model, tmp_path)
  with pytest.raises(ServerError):
    server.start(s)
  assert s.log.text().splitlines()[-1] == sys.executable


def test_a_client_knows_the_address_of_a_server_before_its_start(
  model, tmp_path
):
  async def address(of):
    async with contextlib.aclosing(of.client(str, ServingConfig())) as client:
      return client.base_url

  one, other = (make(StudentServer, model, tmp_path) for _ in range(2))
  first, again = asyncio.run(address(one)), asyncio.run(address(one))
  assert first == again == one.base_url and not first.endswith(":0")
  assert asyncio.run(address(other)) != first
