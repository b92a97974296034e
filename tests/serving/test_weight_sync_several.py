"""Weights that go to several servers, of which some are down at times."""

import threading

import pytest

from atlas_jax.config import ServingConfig
from atlas_jax.serving import weight_sync
from atlas_jax.serving.client import ServerDown
from tests.serving import tiny_vllm
from tests.serving.followers import (
  Follower,
  assert_follows,
  big,
  delta,
  full,
  stepped,
)
from tests.serving.publications import owned


def two(tmp_path):
  """(a sender, the two servers that it sends to)."""
  config = tiny_vllm.server_config(dtype="bfloat16")
  given = {"workdir": tmp_path, "start_timeout_s": 1}
  a, b = (Follower(config, model_path=tmp_path, **given) for _ in range(2))
  for one in (a, b):
    one.healthy = lambda one=one: not one.down
  sender = weight_sync.WeightSender(a, ServingConfig(), b)
  return sender, a, b


def test_a_server_that_was_down_gets_full_files_and_the_others_go_on(tmp_path):
  sender, a, b = two(tmp_path)
  sender.send(owned(big()), 1)
  b.down = True
  for version in (2, 3):
    sender.send(owned(stepped(big(), version)), version)
  assert sender.holds == {a: 3, b: None}
  b.down = False
  sender.send(owned(stepped(big(), 4)), 4)
  sender.send(owned(stepped(big(), 5)), 5)
  assert a.took == [full(1), delta(2), delta(3), delta(4), delta(5)]
  assert b.took == [full(1), full(4), delta(5)]
  assert sender.holds == {a: 5, b: 5}
  for one in (a, b):
    assert_follows(one, stepped(big(), 5))
  a.down = b.down = True
  with pytest.raises(ServerDown):
    sender.send(owned(big()), 6)


def test_one_that_was_down_at_the_start_may_hold_a_newer_version(tmp_path):
  sender, _, b = two(tmp_path)
  b.down = True
  sender.send(owned(big()), 5)
  b.down = False
  sender.send(owned(big()), 5)
  assert b.took == [full(5)] and b.restarts == [True]


@pytest.mark.parametrize("is_still_healthy", [True, False])
def test_a_late_server_that_fails_again_does_not_undo_the_others_delta(
  tmp_path, is_still_healthy
):
  sender, a, b = two(tmp_path)
  sender.send(owned(big()), 1)
  b.down = True
  sender.send(owned(stepped(big(), 2)), 2)
  # It says that it is healthy, so it is to have full files, and takes none.
  answers = iter([True, is_still_healthy])
  b.healthy = lambda: next(answers)
  sent = sender.send(owned(stepped(big(), 3)), 3)
  assert sent.seconds_apply == 0
  assert sender.holds == {a: 3, b: None} and next(answers, None) is None
  b.down, b.healthy = False, lambda: True
  sender.send(owned(stepped(big(), 4)), 4)
  assert a.took == [full(1), delta(2), delta(3), delta(4)]
  assert b.took == [full(1), full(4)]
  for one in (a, b):
    assert_follows(one, stepped(big(), 4))


class Meeting:
  """A road that is gone once the same file is on every road."""

  def __init__(self, barrier, is_down):
    self.barrier, self.is_down, self.asked = barrier, is_down, 0

  def deliver(self, path, digest):
    self.asked += 1
    self.barrier.wait()
    if self.is_down:
      raise ServerDown("gone")
    return path.name


def test_a_file_goes_to_all_servers_side_by_side(tmp_path):
  sender, a, b = two(tmp_path)
  barrier = threading.Barrier(2, timeout=5)
  roads = sender._roads = [Meeting(barrier, down) for down in (False, True)]
  sender.send(owned(big()), 1)
  assert [road.asked for road in roads] == [1, 1]
  assert sender.holds == {a: 1, b: None}
  assert a.took == [full(1)] and b.took == []
