"""Models that the run serves itself: who shares a server, and what is kept."""

import types

import pytest

from atlas_jax.online.calls.ledger import Caps
from atlas_jax.online.calls.model_config import ChatModelConfig
from atlas_jax.online.calls.models import open_model
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search import servers
from atlas_jax.serving import http
from atlas_jax.serving.client import ServerDown
from atlas_jax.serving.server import StudentServer
from tests import published
from tests.online import small_world
from tests.online.opened import ask, request
from tests.online.stub_server import StubServer
from tests.serving import tiny_vllm

ROLES = servers.ROLES


def test_models_that_are_served_elsewhere_are_left_alone(tmp_path):
  config = small_world.config(tmp_path, "http://127.0.0.1:1")
  with servers.served(config, tmp_path, {"A": "b"}) as found:
    assert found == (config, {"A": "b"})
  assert servers.endpoints(config) == {}
  assert not (tmp_path / "logs").exists()


def asked(record, config, environ, **named):
  """The reply of a model on the account of a record."""
  model = open_model(
    config,
    where="config.teacher",
    environ=environ,
    ledger=record.ledger(Caps(dollars=1.0)),
    record=record,
    **named,
  )
  (reply,) = ask(model, request("w5 w6", max_tokens=4))
  return reply


@pytest.mark.parametrize("key", [None, "sk-of-the-server"])
def test_a_server_that_another_process_started(tmp_path, key):
  with StubServer(lambda _: "yes", api_key=key, model="theirs") as stub:
    changes = {"servers__teacher__url": stub.url, "teacher__url": None}
    changes |= {"teacher__kind": "local", "teacher__model": "a/directory"}
    config = small_world.config(tmp_path, stub.url, **changes)
    named = {"endpoint": servers.endpoints(config)["teacher"]}
    with (
      Record() as record,
      servers.served(config, tmp_path, {}, key) as (reachable, environ),
    ):
      reply = asked(record, reachable.teacher, environ, **named)
    assert (reply.status, reply.text) == ("ok", "yes")
    (call,) = stub.calls
  sent = call.headers.get("Authorization")
  assert sent == (None if key is None else f"Bearer {key}")


def test_what_one_server_said_another_one_need_not(tmp_path):
  """The run's own, and one at a URL, call the same model by other names."""
  free = {"kind": "url", "price_in": 0.0, "price_out": 0.0}
  with (
    StubServer(lambda _: "yes", model="teacher") as own,
    StubServer(lambda _: "yes", model="theirs") as other,
    Record() as record,
  ):

    def calls(stub, **named):
      asked(record, ChatModelConfig(url=stub.url, **free), {}, **named)
      return len(own.calls), len(other.calls)

    for stub in (own, other):
      assert calls(stub, endpoint="local:a/directory") == (1, 0)
    assert calls(other, endpoint="local:another") == (1, 1)
    # At one address the name tells models apart.
    assert calls(own) == (2, 1)
    own.model = "another"
    assert calls(own) == (3, 1)


STAND_IN = """
import os, sys, threading
from tests.online.stub_server import StubServer
_, port, role = sys.argv
key = os.environ["VLLM_API_KEY"]
stub = StubServer(lambda _: "w7 w8", model=role, api_key=key)
stub.port = int(port)
with stub:
  threading.Event().wait()
"""


def test_roles_of_one_directory_share_a_server(
  tmp_path, repo_root, monkeypatch
):
  """vLLM has a stand-in; tests/serving/test_real_servers.py asks a real one."""

  def command(self):
    environ = {"VLLM_API_KEY": self.api_key, "PYTHONPATH": str(repo_root)}
    return ["-c", STAND_IN, str(self.port), self.role], environ

  monkeypatch.setattr(StudentServer, "_command", command)
  model = tiny_vllm.save_model(tmp_path / "model")
  changes = {}
  for role in ROLES:
    changes |= {f"{role}__kind": "local", f"{role}__model": str(model)}
    changes |= {f"{role}__url": None}
  config = small_world.config(tmp_path, "http://127.0.0.1:1", **changes)
  endpoints = servers.endpoints(config)
  assert endpoints == dict.fromkeys(ROLES, f"local:{model}")
  with (
    Record(tmp_path / "record.sqlite") as record,
    servers.served(config, tmp_path, {}) as (reachable, environ),
  ):
    urls = {getattr(reachable, role).url for role in ROLES}
    assert len(urls) == 1
    (url,) = urls
    named = {"endpoint": endpoints["teacher"]}
    reply = asked(record, reachable.teacher, environ, **named)
    assert (reply.status, reply.text) == ("ok", "w7 w8"), reply
  # It is gone, and the record knows the directory and neither port nor key.
  with pytest.raises(ServerDown):
    http.ask("GET", url + "/health", None, api_key=None, timeout_s=2)
  (key,) = environ.values()
  content = (tmp_path / "record.sqlite").read_bytes()
  assert f"local:{model}".encode() in content
  for hidden in (key, url):
    assert hidden.encode() not in content


def test_tags_that_are_special_tokens_are_asked_for(tmp_path):
  plain = published.write(tmp_path / "plain", "qwen3")
  assert servers._shown(plain) == {}
  assert servers._shown(tmp_path / "none") == {}
  tag = {"id": 151669, "content": "<teaching>", "special": True}
  hides = published.write(tmp_path / "hides", "qwen3", extra=[tag])
  server = types.SimpleNamespace(
    base_url="http://x", role="teacher", spawned=True, api_key=None
  )
  server.model_path = hides
  model = ChatModelConfig(kind="local", model="m", extra={"top_p": 0.9})
  assert servers._at(server, model).extra == {
    "top_p": 0.9,
    "skip_special_tokens": False,
  }
