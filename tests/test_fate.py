"""What one event does to all processes of a run, each seen by its log."""

import contextlib
import json
import re
import subprocess
import sys
import types

import pytest

from atlas_jax import fate, stopping

pytestmark = pytest.mark.slow
HEARTBEAT_S = 20


@pytest.fixture(scope="module")
def ended(tmp_path_factory, repo_root):
  """event -> what became of its two processes."""
  directory = tmp_path_factory.mktemp("fates")
  told = directory / "told.json"
  done = subprocess.run(
    [
      *(sys.executable, "-m", "tests.fates", "--processes=2"),
      *(f"--heartbeat_s={HEARTBEAT_S}", f"--directory={directory}"),
      *(f"--json={told}", "--at_once=5"),
    ],
    cwd=repo_root,
    capture_output=True,
    text=True,
    timeout=500,
  )
  assert done.returncode == 0, done.stderr
  return {x["event"]: x["processes"] for x in json.loads(told.read_text())}


def assert_says(process, pattern: str):
  assert re.search(pattern, " ".join(process["says"])), process["tail"]


@pytest.mark.parametrize("who", [0, 1])
def test_an_exception_of_one_ends_both_and_both_name_it(ended, who):
  processes = ended[f"raise {who}"]
  assert [p["status"] for p in processes] == [1, 1]
  assert_says(processes[who], "OSError: disk full")
  cause = f"error: process {who} failed: OSError: disk full"
  assert_says(processes[1 - who], cause)
  assert max(p["seconds"] for p in processes) < 60


@pytest.mark.parametrize(
  ("event", "status", "says"),
  [
    ("kill 0", -9, "lost the store of process 0|leader task was preempted"),
    ("kill 1", -9, r"tasks are unhealthy[^:]*: 1\b"),
    ("freeze 0", None, "process 0 does not answer: frozen, or cut off"),
    ("freeze 1", None, r"tasks are unhealthy[^:]*: 1\b"),
  ],
)
def test_a_process_that_is_killed_or_frozen_is_named(
  ended, event, status, says
):
  who = int(event[-1])
  gone, left = ended[event][who], ended[event][1 - who]
  assert gone["status"] == status
  assert left["status"] not in (0, None)
  assert left["seconds"] < 60
  assert_says(left, says)


@pytest.mark.parametrize("whom", ["0", "1", "all"])
def test_a_signal_to_one_or_all_saves_one_step(ended, whom):
  processes = ended[f"term {whom}"]
  assert [p["status"] for p in processes] == [143, 143], processes
  saved = [re.findall(r"SAVED (\d+)", " ".join(p["says"])) for p in processes]
  assert len(saved[0]) == 1 and saved[0] == saved[1]
  for process in processes:
    assert_says(process, "error: stopped by SIGTERM; the same command goes on")


@pytest.mark.parametrize(
  ("whom", "count"), [("all", 1), ("1", 2)], ids=["one process", "another mesh"]
)
def test_the_step_that_was_saved_goes_on_elsewhere(ended, whom, count):
  (step,) = re.findall(
    r"SAVED (\d+)", " ".join(ended[f"term {whom}"][0]["says"])
  )
  processes = ended[f"again term {whom}"]
  assert [p["status"] for p in processes] == [0] * count, processes
  for process in processes:
    assert_says(process, rf"RESUMED {step} on {count}\b")


def _exit_after(error, code):
  """As launchers end: the line is printed, then comes the exit."""
  try:
    raise error
  except BaseException:
    sys.exit(code)


@pytest.mark.parametrize(
  ("leave", "cause", "status"),
  [
    (lambda: None, None, None),
    (lambda: sys.exit(0), None, None),
    (lambda: sys.exit(), None, None),
    (lambda: sys.exit(3), SystemExit, 3),
    (lambda: sys.exit("enough"), SystemExit, 1),
    (lambda: _exit_after(OSError(), 1), OSError, 1),
    (lambda: _exit_after(stopping.Stopped(15), 143), None, None),
    (lambda: int("x"), ValueError, 1),
  ],
)
def test_what_ends_all_processes(monkeypatch, leave, cause, status):
  failed = []
  monkeypatch.setattr(
    fate,
    "_Fate",
    lambda: types.SimpleNamespace(
      fail=lambda *given: failed.append(given), end=lambda: None
    ),
  )
  with contextlib.suppress(SystemExit, ValueError), fate.shared():
    leave()
  assert [(type(e), code) for e, code in failed] == (
    [(cause, status)] if cause else []
  )
