"""Commands: what they get, how their output is read, how they end."""

import pathlib
import subprocess
import sys
import time

import pytest

from tests.online.agents import echoes
from tests.online.agents.asked import ask, both_end, by_command, opened, tries

ECHOES = str(pathlib.Path(echoes.__file__))


def script(code: str, *, environ=None, **keys):
  return by_command(code, common={"environ": environ}, **keys)


def test_the_deadline_kills_the_whole_group(tmp_path):
  pids = tmp_path / "pids"
  argv = (sys.executable, ECHOES, "--sleep", str(pids))
  reply = ask(opened("cli", {"argv": argv}, timeout_s=8.0), "q")
  assert reply.status == "timeout" and reply.seconds < 30
  assert both_end(pids)


@pytest.mark.parametrize("kind", ["cli", "python"])
def test_it_does_not_outlive_a_run_that_is_killed(tmp_path, kind):
  pids = tmp_path / "pids"
  keys = {
    "cli": {"argv": (sys.executable, ECHOES, "--sleep", str(pids))},
    "python": {"target": f"{ECHOES}:sleeps", "own_process": True},
  }
  code = (
    "from tests.online.agents.asked import ask, both_end, opened\n"
    f"ask(opened({kind!r}, {keys[kind]!r}), {str(pids)!r})"
  )
  run = subprocess.Popen([sys.executable, "-c", code])
  try:
    until = time.monotonic() + 60.0
    while not (pids.exists() and len(pids.read_text().split()) == 2):
      assert run.poll() is None and time.monotonic() < until
      time.sleep(0.05)
  finally:
    run.kill()
    run.wait()
  assert both_end(pids)


def test_what_it_leaves_behind_is_neither_waited_for_nor_kept(tmp_path):
  pids = tmp_path / "pids"
  code = (
    "import os, pathlib, subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c',"
    " 'import time; time.sleep(60)'])\n"
    f"pathlib.Path({str(pids)!r}).write_text("
    "f'{os.getpid()} {child.pid}')\n"
    "print('done')"
  )
  reply = script(code)
  assert (reply.status, reply.text) == ("ok", "done\n")
  assert reply.seconds < 30 and both_end(pids)


def test_a_failure_is_an_error_with_the_end_of_standard_error():
  code = "import sys; print('42'); sys.exit('x' * 999 + 'the end')"
  reply, made = tries(
    "cli", {"argv": (sys.executable, "-c", code)}, "q", retries=3
  )
  assert (reply.status, reply.text, made) == ("error", None, 1)
  assert reply.error.startswith("exit status 1; standard error ends with 'xxx")
  assert reply.error.endswith("the end'") and len(reply.error) < 400


@pytest.mark.parametrize(("status", "expected"), [(75, 2), (74, 1)])
def test_one_failure_alone_passes_by(status, expected):
  keys = {"argv": (sys.executable, "-c", f"import sys; sys.exit({status})")}
  assert tries("cli", keys, "q", retries=1)[1] == expected


def test_of_an_environment_with_no_locale_nothing_is_added():
  environ = {"PATH": "/usr/bin:/bin"}
  reply = ask(opened("cli", {"argv": ("env",)}, environ=environ), "q")
  names = [line.split("=")[0] for line in reply.text.splitlines()]
  assert sorted(names) == ["PATH", "TMPDIR"]


def test_death_by_a_signal():
  reply = script("import os; print('42', flush=True); os.kill(os.getpid(), 9)")
  assert (reply.status, reply.text) == ("error", None)
  assert reply.error.startswith("signal 9;")


@pytest.mark.parametrize(
  "code",
  [
    "import os; os.kill(os.getppid(), 9)",
    "import os, shutil; shutil.rmtree(os.path.dirname(os.environ['TMPDIR']))",
  ],
)
def test_a_command_that_takes_its_surroundings_along(code):
  assert script(code).error == "it removed its directory or supervisor"


def test_the_environment_is_what_was_allowed():
  environ = {
    "PATH": "/bin",
    "HOME": "/",
    "TOLD": "a-secret-value",
    "OTHER": "o",
  }
  code = "import os; print(sorted(k for k in os.environ if k != 'LC_CTYPE'))"
  reply = script(code, environ=environ, env=("TOLD",))
  assert reply.text == "['HOME', 'PATH', 'TMPDIR', 'TOLD']\n"
  code = "import os, sys; sys.exit(os.environ['TOLD'])"
  reply = script(code, environ=environ, env=("TOLD",))
  assert reply.error == "exit status 1; standard error ends with '***'"


@pytest.mark.parametrize(
  ("output", "keys", "status", "text"),
  [
    ("log\nA: 1\nA: 2\n", {"output_regex": r"A: (\d+)"}, "ok", "2"),
    ("log 17", {"output_regex": r"\d+"}, "ok", "17"),
    ("log", {"output_regex": r"\d+"}, "error", None),
    ('{"a": [null], "error": "e"}', {"output_path": "a[0]"}, "error", None),
    ('{"a": ["x"], "error": "e"}', {"output_path": "a[0]"}, "ok", "x"),
    ("\n", {}, "empty", None),
  ],
)
def test_reading(output, keys, status, text):
  reply = script(f"print({output!r}, end='')", **keys)
  assert (reply.status, reply.text) == (status, text)


def test_bytes_that_are_no_text():
  reply = script("import sys; sys.stdout.buffer.write(b'\\xff\\xfe')")
  assert reply.error == "standard output, 2 bytes, is not UTF-8"


def test_no_such_command():
  reply = ask(opened("cli", {"argv": ("no-such-command-here",)}), "q")
  assert reply.status == "error"
  assert reply.error.startswith("no-such-command-here does not start")
