"""By which road files come to a server, with a stand-in for it."""

import json
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import blake3
import pytest

from atlas_jax.config import ServingConfig
from atlas_jax.serving import weight_roads
from atlas_jax.serving.http import ServerDown, ServerError, WeightsRefused
from tests.serving import tiny_vllm

BODY = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
  def do_PUT(self):
    body = self.rfile.read(int(self.headers["Content-Length"]))
    self.server.puts.append((self.path, body, dict(self.headers)))
    status = self.server.statuses.pop(0) if self.server.statuses else 200
    if status is None:  # it breaks off
      self.close_connection = True
      return
    if status == "html":  # of something before the server
      self._answer(200, b"<html>")
    else:
      self._answer(status, b'{"error": "why", "path": "there/it"}')

  def do_GET(self):
    name = self.path.rpartition("/")[2]
    path = self.server.sees and self.server.sees / f"nonce-{name}"
    digest = "null"
    if path and path.is_file():
      digest = f'"{blake3.blake3(path.read_bytes()).hexdigest()}"'
    self._answer(200, f'{{"digest": {digest}}}'.encode())

  def do_POST(self):
    self.rfile.read(int(self.headers["Content-Length"]))
    self._answer(*self.server.answers.pop(0))

  def _answer(self, status, body):
    self.send_response(status)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *_):
    pass


@pytest.fixture
def peer(monkeypatch):
  """A server: what it `sees`, its next `statuses`, the `puts` that came."""
  monkeypatch.setattr(weight_roads.retries, "pause_s", lambda *_: 0)
  server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  server.puts, server.statuses, server.sees = [], [], None
  threading.Thread(target=server.serve_forever, args=(0.01,)).start()
  yield server
  server.shutdown()
  server.server_close()


def choose(peer, tmp_path, weights="auto", retries=2, **changes):
  url = f"http://127.0.0.1:{peer.server_port}"
  teacher = tiny_vllm.teacher(tmp_path, tmp_path, url=url)
  teacher.api_key = "token"
  config = ServingConfig(weights=weights, retries=retries, **changes)
  road = weight_roads.Road(teacher, config)
  assert road.by_http in (True, False)  # chosen now
  return road


def test_the_road_is_chosen_by_what_the_server_sees(peer, tmp_path):
  assert choose(peer, tmp_path).by_http
  peer.sees = tmp_path / "weights"
  assert not choose(peer, tmp_path).by_http
  assert not choose(peer, tmp_path, "files").by_http
  assert choose(peer, tmp_path, "http").by_http
  (tmp_path / "other").mkdir()
  peer.sees = tmp_path / "other"  # the same path on another machine
  assert choose(peer, tmp_path).by_http
  assert list((tmp_path / "weights").iterdir()) == []  # no nonce stays


def test_a_server_that_the_run_starts_has_its_directory(tmp_path):
  teacher = tiny_vllm.teacher(tmp_path, tmp_path)
  assert not weight_roads.Road(teacher, ServingConfig()).by_http
  assert weight_roads.Road(teacher, ServingConfig(weights="http")).by_http


def test_files_alone_and_a_server_that_sees_none(peer, tmp_path):
  with pytest.raises(ServerError, match=r"config\.serving\.weights=http"):
    choose(peer, tmp_path, "files")


def deliver(road, tmp_path):
  path = tmp_path / "weights-00000001.safetensors"
  path.write_bytes(BODY)
  return road.deliver(path, blake3.blake3(BODY).hexdigest())


def test_a_shared_file_is_not_sent(peer, tmp_path):
  peer.sees = tmp_path / "weights"
  name = deliver(choose(peer, tmp_path), tmp_path)
  assert peer.puts == [] and name == "weights-00000001.safetensors"


@pytest.mark.parametrize(
  "failed",
  [[], [400], [507, 400], [500], [503, 429], [None], [None, 507], ["html"]],
)
def test_a_failed_file_is_sent_again_whole(peer, tmp_path, failed):
  peer.statuses = list(failed)
  path = deliver(choose(peer, tmp_path, "http"), tmp_path)
  assert path == "there/it"
  assert len(peer.puts) == len(failed) + 1
  for path, body, headers in peer.puts:
    assert path == "/v1/atlas/files/weights-00000001.safetensors"
    assert body == BODY
    assert headers["Authorization"] == "Bearer token"
    assert headers["X-Atlas-Blake3"] == blake3.blake3(BODY).hexdigest()


@pytest.mark.parametrize(
  "statuses, sent, kind",
  [
    ([400] * 9, 3, ServerError),
    ([401], 1, ServerError),
    ([413], 1, ServerError),
    ([503] * 9, 3, ServerDown),
    (["html"] * 9, 3, ServerDown),
    ([None] * 9, 6, ServerDown),  # aiohttp itself sends a PUT once more
  ],
)
def test_retries_have_an_end(peer, tmp_path, statuses, sent, kind):
  peer.statuses = statuses
  road = choose(peer, tmp_path, "http")
  with pytest.raises(kind) as raised:
    deliver(road, tmp_path)
  assert len(peer.puts) == sent and type(raised.value) is kind


def test_one_that_refuses_a_file_and_dies_is_down(peer, tmp_path, monkeypatch):
  peer.statuses = [400]
  road = choose(peer, tmp_path, "http")
  monkeypatch.setattr(type(road.server), "healthy", lambda _: False)
  with pytest.raises(ServerDown, match="answered 400"):
    deliver(road, tmp_path)


def test_all_attempts_have_the_time_of_one_request(peer, tmp_path, monkeypatch):
  waited = []
  clock = types.SimpleNamespace(
    monotonic=lambda: sum(waited), sleep=waited.append
  )
  monkeypatch.setattr(weight_roads, "time", clock)
  monkeypatch.setattr(weight_roads.retries, "pause_s", lambda *_: 40)
  peer.statuses = [503] * 9
  road = choose(peer, tmp_path, "http", retries=8, request_timeout_s=100)
  with pytest.raises(ServerDown):
    deliver(road, tmp_path)
  assert len(peer.puts) == 3 and waited == [40, 40]


TAKEN = b'{"version": "1", "seconds_check": 0.1, "seconds_apply": 0.2}'


@pytest.mark.parametrize(
  "answers, kind",
  [
    ([(400, b"no")], WeightsRefused),
    ([(401, b"no")], ServerError),
    ([(500, b"no")], ServerDown),
    ([(503, b"no")], ServerDown),
    ([(200, b"<html>")], ServerDown),
    ([(200, b"[" * 100_000)], ServerDown),
    ([(200, b"[]")], ServerDown),
    ([(200, b'{"version": "1"}')], ServerDown),
    ([(200, TAKEN.replace(b"0.2", b"null"))], ServerDown),
    ([(200, b"you sent Bearer token-of-mine\n")], ServerDown),
    ([(200, TAKEN.replace(b'"1"', b'"2"'))], ServerDown),
    ([(409, b"busy"), (409, b"busy"), (200, TAKEN)], None),
  ],
)
def test_odd_answers_to_an_update(peer, tmp_path, monkeypatch, answers, kind):
  monkeypatch.setattr("time.sleep", lambda _: None)
  peer.answers = answers
  url = f"http://127.0.0.1:{peer.server_port}"
  teacher = tiny_vllm.teacher(tmp_path, tmp_path, url=url)
  teacher.api_key = "token-of-mine"
  if kind is None:
    took = teacher.update_weights({}, "1", {}, 60)
    assert took == json.loads(TAKEN)
  else:
    with pytest.raises(ServerError) as raised:
      teacher.update_weights({}, "1", {}, 60)
    assert type(raised.value) is kind
    said = str(raised.value)
    assert said.startswith(url)
    assert "\n" not in said and "token-of-mine" not in said
  assert not answers
