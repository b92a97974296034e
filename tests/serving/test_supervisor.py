"""Nothing of a supervised command is left, whatever ends its owner."""

import json
import os
import signal
import subprocess
import sys

import pytest

from atlas_jax.serving import supervisor
from tests.processes import running, wait_until

# A command with a child, and a grandchild in a session of its own that
# ignores SIGTERM; each writes its pid.
TREE = """
import os, signal, subprocess, sys, time
code = sys.argv[1]
open(os.environ["PIDS"], "a").write(f"{os.getpid()}\\n")
if code == "top":
  subprocess.Popen([sys.executable, __file__, "child"])
if code == "child":
  subprocess.Popen([sys.executable, __file__, "stubborn"],
                   start_new_session=True)
if code == "stubborn":
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(300)
"""

OWNER = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, sys.argv[1]], stdin=subprocess.PIPE,
                         start_new_session=True)
child.stdin.write(sys.argv[2].encode() + b"\\n")
child.stdin.flush()
# Another child inherits the pipe: its end is then no sign of our death.
subprocess.Popen(["sleep", "60"], close_fds=False,
                 pass_fds=[child.stdin.fileno()])
print(child.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture
def order(tmp_path):
  tree, pids = tmp_path / "tree.py", tmp_path / "pids"
  tree.write_text(TREE)
  argv = [sys.executable, str(tree), "top"]
  yield json.dumps({"argv": argv, "env": {"PIDS": str(pids)}}), pids
  for pid in read(pids):  # only after a failure is one of them left
    if running(pid):
      os.kill(pid, signal.SIGKILL)


def read(pids):
  return [int(p) for p in pids.read_text().split()] if pids.exists() else []


def start(order):
  process = subprocess.Popen(
    [sys.executable, supervisor.__file__], stdin=subprocess.PIPE
  )
  process.stdin.write(order.encode() + b"\n")
  process.stdin.flush()
  return process


def assert_all_gone(pids):
  left = read(pids)
  assert len(left) == 3
  assert wait_until(lambda: not any(map(running, left))), [
    p for p in left if running(p)
  ]


def test_the_pipe_closes(order):
  order, pids = order
  process = start(order)
  assert wait_until(lambda: len(read(pids)) == 3)
  process.stdin.close()
  assert process.wait(10) == 128 + signal.SIGTERM
  assert_all_gone(pids)


def test_sigterm(order):
  order, pids = order
  process = start(order)
  assert wait_until(lambda: len(read(pids)) == 3)
  process.terminate()
  process.wait(10)
  assert_all_gone(pids)
  process.stdin.close()


def test_the_owner_is_killed_while_its_pipe_lives_on(order):
  order, pids = order
  owner = subprocess.Popen(
    [sys.executable, "-c", OWNER, supervisor.__file__, order],
    stdout=subprocess.PIPE,
    start_new_session=True,
  )
  supervised = int(owner.stdout.readline())
  assert wait_until(lambda: len(read(pids)) == 3)
  owner.send_signal(signal.SIGKILL)
  owner.wait()
  assert_all_gone(pids)
  assert wait_until(lambda: not running(supervised))
  os.killpg(owner.pid, signal.SIGKILL)  # the sleep that held the pipe
  owner.stdout.close()


def test_the_supervisor_is_killed(order):
  order, pids = order
  process = start(order)
  assert wait_until(lambda: len(read(pids)) == 3)
  top = read(pids)[0]
  process.kill()
  process.wait()
  process.stdin.close()
  assert wait_until(lambda: not running(top))


def test_exit_status_is_passed_on(order):
  argv = [sys.executable, "-c", "import sys; sys.exit(7)"]
  process = start(json.dumps({"argv": argv, "env": {}}))
  assert process.wait(10) == 7
  process.stdin.close()
