"""Two processes of `launchers.train` of which one fails: both say the cause.

Processes that are killed, frozen or stopped are in tests/test_fate.py.
"""

import socket
import subprocess

import pytest

from tests import forked
from tests.phases import small_sft

pytestmark = pytest.mark.slow


@pytest.fixture
def both(model, tmp_path):
  """(what each does in place of training, workdirs) -> (processes, logs)."""
  started = []

  def start(fates, workdirs=("run", "run")):
    with socket.socket() as s:
      s.bind(("127.0.0.1", 0))
      port = s.getsockname()[1]
    logs = [tmp_path / f"{rank}.log" for rank in (0, 1)]
    for rank, log in enumerate(logs):
      changes = {"mesh__fsdp": -1, "mesh__data": 1, "sft__steps": 200}
      flags = small_sft.flags(model, tmp_path / workdirs[rank], **changes)
      with log.open("w") as out:
        started.append(
          forked.Process(
            "tests.phases.fated",
            *(fates[rank], "20", *flags, "--num_processes=2"),
            *(f"--coordinator=127.0.0.1:{port}", f"--process_id={rank}"),
            stdout=out,
            stderr=subprocess.STDOUT,
          )
        )
    return started, logs

  yield start
  for process in started:
    process.kill()


def test_a_failure_of_one_ends_both(both):
  processes, logs = both(("train", "fail"))
  assert [p.wait(120) for p in processes] == [1, 1]
  said = [log.read_text() for log in logs]
  assert "error: process 1 failed: OSError: disk full" in said[0]
  assert "OSError: disk full" in said[1] and "Traceback" in said[1]


def test_hosts_without_a_shared_disk_are_refused(both, tmp_path):
  processes, logs = both(("train", "train"), ("run", "another"))
  assert [p.wait(120) for p in processes] == [1, 1]
  for log in logs:
    (line,) = [
      x for x in log.read_text().splitlines() if x.startswith("error: ")
    ]
    assert "of 2 processes these do not see" in line
    assert f"{tmp_path / 'run' / 'checkpoints'}: [1]" in line
