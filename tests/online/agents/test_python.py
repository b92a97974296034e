"""Functions, here and in processes of their own."""

import os
import pathlib
import subprocess
import sys

import pytest

from atlas_jax.config import ConfigError
from tests.online.agents import echoes
from tests.online.agents.asked import ask, opened, tries

ECHOES = str(pathlib.Path(echoes.__file__))
WHERE = pytest.mark.parametrize("own_process", [False, True])


def agent(name: str, own_process: bool = True, **common):
  keys = {"target": f"{ECHOES}:{name}", "own_process": own_process}
  return opened("python", keys, **common)


def test_a_module_is_named_as_it_is_imported():
  keys = {"target": "tests.online.agents.echoes:of", "own_process": True}
  assert ask(opened("python", keys), "q").text == echoes.of("q")


def test_prints_do_not_break_the_answer(capfd):
  replies = ask(agent("noisy", concurrency=1), "a", "b")
  assert [r.text for r in replies] == [echoes.of("a"), echoes.of("b")]
  out, err = capfd.readouterr()
  assert out == "" and "noisenoise" in err
  assert "\x00" not in err and r"\x00" in err


def test_a_thread_that_hangs_is_given_up_and_holds_nothing_up():
  code = (
    "from tests.online.agents.asked import ask, both_end, opened\n"
    "keys = {'target': 'time:sleep'}\n"
    "import atexit, sys, time\n"
    "time.sleep = lambda _, s=time.sleep: s(60)\n"
    "start = time.monotonic()\n"
    "end = lambda: sys.stderr.write(f'{time.monotonic() - start}')\n"
    "atexit.register(end)\n"
    "print(ask(opened('python', keys, timeout_s=0.3), 'q').status)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, timeout=240
  )
  assert done.stdout == "timeout\n", done.stderr
  assert float(done.stderr) < 30


def test_a_crash_is_an_error_and_the_next_prompt_has_a_new_process():
  replies = ask(agent("dies", concurrency=1), "die", "live")
  assert (replies[0].status, replies[0].text) == ("error", None)
  assert replies[0].error == "its process died (signal 9)"
  assert replies[1].text == echoes.of("live")


def test_no_prompt_finds_what_another_left(tmp_path):
  file = tmp_path / "counting.py"
  file.write_text("seen = []\ndef f(p):\n  seen.append(p)\n  return str(seen)")
  keys = {"target": f"{file}:f", "own_process": True}
  replies = ask(opened("python", keys, concurrency=1), "a", "b")
  assert [r.text for r in replies] == ["['a']", "['b']"]


@WHERE
@pytest.mark.parametrize(
  ("prompt", "error", "attempts"),
  [
    ("key", "KeyError: 'Error: 401 sk-environment-secret'", 1),
    ("exit", "SystemExit: Error: 401 sk-environment-secret", 1),
    ("down", "ConnectionError: Error: 401 sk-environment-secret", 2),
  ],
)
def test_exceptions_are_errors(own_process, prompt, error, attempts):
  keys = {"target": f"{ECHOES}:raises", "own_process": own_process}
  reply, made = tries("python", keys, prompt, environ={}, retries=1)
  assert (reply.status, reply.text, reply.error) == ("error", None, error)
  assert made == attempts


@WHERE
def test_only_text_is_an_answer(own_process):
  reply = ask(agent("counts", own_process), "q")
  assert reply.error == "the function returned int, not str"


@pytest.mark.parametrize(
  ("target", "message"),
  [
    ("no.such:f", r"no\.such does not import: ModuleNotFoundError"),
    ("nowhere.py:f", r"nowhere\.py does not import: FileNotFoundError"),
    (f"{ECHOES}:missing", r"has no 'missing'; it has .*of_async"),
    ("no colon", "must be module:name or path/to/file.py:name"),
  ],
)
def test_a_target_that_does_not_load(target, message):
  with pytest.raises(ConfigError, match=message) as error:
    opened("python", {"target": target})
  assert str(error.value).startswith("config.python.target=")


def test_a_target_that_does_not_load_in_its_own_process():
  keys = {"target": "no.such:f", "own_process": True}
  reply = ask(opened("python", keys, environ=dict(os.environ)), "q")
  assert reply.status == "error"
  assert "config.python.target='no.such:f': no.such does not" in reply.error


def test_nothing_of_the_current_directory_is_imported(tmp_path, monkeypatch):
  (tmp_path / "json.py").write_text("open('ran', 'w')")
  monkeypatch.chdir(tmp_path)
  ask(agent("raises", environ={}), "x")
  assert not (tmp_path / "ran").exists()
