"""Processes from the fork server: what they inherit, how they end."""

import contextlib
import os
import pathlib
import signal
import sys

import pytest

from atlas_jax import fork_server
from atlas_jax.confined import Confined, Unanswered

LIMITS = {"cpu_s": 5, "wall_s": 60}


def place():
  return [os.getcwd(), os.environ.get("MARK"), sys.path[0], os.getpgid(0)]


def open_files():
  return sorted(int(name) for name in os.listdir("/proc/self/fd"))


def modules():
  return "tabnanny" in sys.modules


def imports():
  import tabnanny  # noqa: F401


def fails():
  raise ValueError("no such library")


def test_a_process_has_our_place_of_its_start(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("MARK", "here")
  monkeypatch.syspath_prepend(str(tmp_path))
  process = Confined()
  where = process.call(place, **LIMITS)
  assert where == [str(tmp_path), "here", str(tmp_path), process.pid]


def test_a_process_holds_its_connection_alone():
  with open(os.devnull):
    process = Confined()
    # 0 to 2, the connection twice, and the listing's own.
    assert len(process.call(open_files, **LIMITS)) <= 6


def test_what_is_prepared_is_there_and_runs_once_for_all():
  assert not Confined().call(modules, **LIMITS)
  assert Confined(imports).call(modules, **LIMITS)
  first, second = Confined(imports), Confined(imports)
  assert first.pid != second.pid
  assert os.getpgid(first.pid) == first.pid


def test_a_preparation_that_fails_leaves_the_process_alive():
  assert Confined(fails).call(abs, -2, **LIMITS) == 2


def test_a_lost_server_is_replaced():
  first = Confined()
  server = fork_server._server
  os.kill(server._process.pid, signal.SIGKILL)
  server._process.wait()
  assert Confined().call(abs, -3, **LIMITS) == 3
  # What the lost one forked goes on.
  assert first.call(abs, -4, **LIMITS) == 4


def test_an_ended_process_is_gone():
  process = Confined()
  pid = process.pid
  process.end()
  assert not process.alive
  status = pathlib.Path(f"/proc/{pid}/stat")
  assert not status.exists() or status.read_text().split()[2] == "Z"
  with pytest.raises(Unanswered):
    process.call(abs, -1, **LIMITS)


def test_a_descriptor_above_1023_is_watched():
  with contextlib.ExitStack() as stack:
    for _ in range(1100):
      stack.enter_context(open(os.devnull))
    process = Confined()
    assert process.alive
    process.end()
    assert not process.alive


def test_a_directory_that_is_gone_is_no_error(tmp_path, monkeypatch):
  gone = tmp_path / "gone"
  gone.mkdir()
  monkeypatch.chdir(gone)
  gone.rmdir()
  assert Confined().call(abs, -5, **LIMITS) == 5


def test_an_interrupted_start_gives_no_other_process_away(monkeypatch):
  Confined()
  server = fork_server._server

  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(fork_server.socket, "recv_fds", interrupted)
  with pytest.raises(KeyboardInterrupt):
    Confined()
  monkeypatch.undo()
  process = Confined()
  assert fork_server._server is not server
  assert process.call(os.getpid, **LIMITS) == process.pid
