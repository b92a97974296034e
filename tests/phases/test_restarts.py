"""Servers that die while a run samples, publishes, or checks agreement."""

import os
import signal
import types

import numpy as np
import pytest

from atlas_jax import multihost, stopping
from atlas_jax.config import ServingConfig
from atlas_jax.phases.servers import DisagreementError, Servers
from atlas_jax.serving.client import ServerDown
from atlas_jax.stopping import Stopped


class FakeTeacher:
  """A teacher that says -1, -2 of the tokens of the fixed prompt."""

  def __init__(self):
    self.version = 3
    self.chat = types.SimpleNamespace(prompt_ids=lambda text: [5, 6, 7])

  def exported(self, dtype):
    return {"a": dtype}

  def logprobs(self, ids):
    assert ids == [5, 6, 7]
    return np.array([-1.0, -2.0])


class FailingServers(Servers):
  """Started servers; `happens` to their requests, in order; None: nothing."""

  def __init__(self, *happens, restarts=2, says=(-1.0, -2.0), bound=0.1):
    config = ServingConfig(restarts=restarts, max_logprob_gap=bound)
    super().__init__(config, None, FakeTeacher(), None, None)
    self.happens, self.log = list(happens), []
    self._student = self._served_student = types.SimpleNamespace(chat=None)
    teacher = types.SimpleNamespace(
      scores=lambda *ids: [says],
      require=lambda version, holds: None,
      numbers=lambda role: {},
    )
    student = types.SimpleNamespace(numbers=lambda role: {})
    self._fleets = teacher, student
    self._sender = types.SimpleNamespace(send=self.send, holds={})

  def ask(self, requests):
    return requests

  def _take_back(self):
    return False

  def _restart_dead(self):
    self.log.append("restart")

  def request(self, name):
    self.log.append(name)
    error = self.happens.pop(0) if self.happens else None
    if error is not None:
      raise error

  def send(self, tensors, version, hold):
    assert (tensors, version) == ({"a": "bfloat16"}, self._teacher.version)
    self.request("publish")
    return types.SimpleNamespace(bytes=1.0, seconds=0.5)


def gone():
  return ServerDown("gone")


def test_a_server_that_dies_while_it_is_published_to():
  servers = FailingServers(gone())
  numbers = servers.publish()
  assert numbers == {
    "publish_bytes": 1.0,
    "publish_seconds": 0.5,
    "logprob_gap": 0.0,
  }
  assert servers.log == ["publish", "restart", "publish"]


def test_what_the_server_holds_is_published_once():
  servers = FailingServers()
  assert servers.publish() != {} and servers.publish() == {}
  assert servers.roles()[0].version == "weights-3"
  servers._teacher.version = 4
  assert servers.publish() != {}
  assert servers.log == ["publish", "publish"]
  assert servers.roles()[0].version == "weights-4"


def test_a_server_that_dies_while_it_samples_gets_the_weights_first():
  servers = FailingServers(None, gone())
  servers.publish()
  assert servers.call(lambda: servers.request("sample") or 7) == 7
  assert servers.log == ["publish", "sample", "restart", "publish", "sample"]


def test_a_server_that_dies_again_at_the_publish_after_its_restart():
  servers = FailingServers(None, gone(), gone())
  servers.publish()
  assert servers.call(lambda: servers.request("sample") or 7) == 7
  assert servers.log.count("restart") == 2


def test_restarts_are_bounded_over_the_whole_run():
  servers = FailingServers(gone(), None, gone(), gone(), restarts=2)
  servers.publish()
  with pytest.raises(ServerDown):
    servers.call(lambda: servers.request("sample"))
  assert servers.log.count("restart") == 2


def test_other_errors_are_not_tried_again(monkeypatch):
  servers, said = FailingServers(KeyError("apart")), []

  def broadcast(value):
    said.append(value)
    return value

  monkeypatch.setattr(multihost, "broadcast_json", broadcast)
  with pytest.raises(KeyError):
    servers.publish()
  assert servers.log == ["publish"]
  assert said == [False]  # other processes wait for it


def test_a_server_that_disagrees_ends_the_run():
  theirs = (-1.5, -2.1)
  numbers = FailingServers(says=theirs, bound=0.31).publish()
  assert numbers["logprob_gap"] == pytest.approx(0.3)
  servers = FailingServers(says=theirs, bound=0.29)
  with pytest.raises(DisagreementError, match=r"weights 3: .* 0\.3 is above"):
    servers.publish()
  # It is not taken for published.
  with pytest.raises(DisagreementError):
    servers.publish()
  assert servers.log == ["publish", "publish"]


def test_nan_is_no_agreement():
  with pytest.raises(DisagreementError):
    FailingServers(says=(-1.0, float("nan")), bound=1e9).publish()


def test_a_signal_waits_for_work_that_holds_it():
  def work():
    os.kill(os.getpid(), signal.SIGTERM)
    return 7

  found, servers = [], FailingServers()
  servers.publish()
  with pytest.raises(Stopped), stopping.listening(), stopping.held():
    found.append(servers.call(work, hold=True))
  assert found == [7]
  with pytest.raises(Stopped), stopping.listening(), stopping.held():
    found.append(servers.call(work))
  assert found == [7]


def test_work_that_holds_a_signal_is_done_after_one_was_heard(monkeypatch):
  found, servers = [], FailingServers(None, gone())
  servers.publish()
  with pytest.raises(Stopped), stopping.listening(), stopping.held():
    os.kill(os.getpid(), signal.SIGTERM)

    def work():
      servers.request("look")
      return 7

    found.append(servers.call(work, hold=True))
  assert found == [7]
  assert servers.log == ["publish", "look", "restart", "publish", "look"]


def test_a_role_is_restarted_where_none_of_its_servers_is_left():
  class Server:
    def __init__(self, healthy):
      self.healthy, self.restarts = lambda: healthy, 0

    def restart(self):
      self.restarts += 1

  one, two, dead = Server(True), Server(False), Server(False)
  servers = FailingServers()
  servers._fleets = (
    types.SimpleNamespace(servers={1: dead}),
    types.SimpleNamespace(servers={1: one, 2: two}),
  )
  Servers._restart_dead(servers)
  assert [s.restarts for s in (dead, one, two)] == [1, 0, 0]


def test_another_teacher_and_student_are_held_for_a_while():
  servers = FailingServers()
  own = servers._student
  other, student = FakeTeacher(), types.SimpleNamespace(chat="its")
  other.version = 9
  started = []
  servers._exchange_student = lambda: started.append(servers._student)
  servers.publish()
  with servers.serving(other, student):
    assert servers.log == ["publish"]  # only when it is needed
    teacher, taught = servers.call(servers.roles)
    assert (teacher.version, taught.chat) == ("weights-9", "its")
  assert started == [student]
  servers.call(lambda: servers.request("sample"))
  assert servers.log == ["publish", "publish", "publish", "sample"]
  assert started == [student, own]
  assert servers.roles()[0].version == "weights-3"
