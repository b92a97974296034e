"""Servers that die while a run samples, publishes, or checks agreement."""

import types

import pytest

from atlas_jax.phases.run import DisagreementError, Run
from atlas_jax.phases.servers import Servers
from atlas_jax.serving.client import ServerDown


class FailingServers(Servers):
  """Servers whose next requests are told what happens to them."""

  def __init__(self, happens, restarts):
    self._config = types.SimpleNamespace(restarts=restarts)
    self.published, self._restarts = None, 0
    self.happens = list(happens)
    self.log = []

  def roles(self):
    return None, None

  def _restart_dead(self):
    self.log.append("restart")

  def request(self, name):
    self.log.append(name)
    if self.happens:
      error = self.happens.pop(0)
      if error is not None:
        raise error


class Failing(Run):
  """A Run with such servers."""

  def __init__(self, *happens, restarts=2):
    self.version = 3
    self.servers = FailingServers(happens, restarts)
    self.request, self.log = self.servers.request, self.servers.log

  def _publish(self):
    if self.servers.published != self.version:
      self.request("publish")
      self.servers.published = self.version
    return {"publish_bytes": 1.0}


def gone():
  return ServerDown("gone")


def test_a_server_that_dies_while_it_is_published_to(monkeypatch):
  run = Failing(gone())
  assert run.publish() == {"publish_bytes": 1.0}
  assert run.log == ["publish", "restart", "publish"]


def test_a_server_that_dies_while_it_samples_gets_the_weights_first():
  run = Failing(None, gone())
  run.publish()
  assert run.with_servers(lambda: run.request("sample") or 7) == 7
  assert run.log == ["publish", "sample", "restart", "publish", "sample"]


def test_a_server_that_dies_again_at_the_publish_after_its_restart():
  run = Failing(None, gone(), gone())
  run.publish()
  assert run.with_servers(lambda: run.request("sample") or 7) == 7
  assert run.log.count("restart") == 2


def test_restarts_are_bounded_over_the_whole_run():
  run = Failing(gone(), None, gone(), gone(), restarts=2)
  run.publish()
  with pytest.raises(ServerDown):
    run.with_servers(lambda: run.request("sample"))
  assert run.log.count("restart") == 2


def test_other_errors_are_not_tried_again():
  run = Failing(DisagreementError("apart"))
  with pytest.raises(DisagreementError):
    run.publish()
  assert run.log == ["publish"]
