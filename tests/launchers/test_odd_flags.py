"""Flags and files of a config that no one means: one line, exit status 1."""

import os
import subprocess
import sys

import pytest

# What a launcher does with its flags, without what it imports.
_LAUNCHER = (
  "import sys; from launchers import config_flag;"
  "config_flag.define(); config_flag.parse(sys.argv)"
)
BASE = "--config=configs/online.py"
OTHER = "--config=configs/proxy.py"


def told(code, *arguments, cwd, **environ):
  done = subprocess.run(
    [sys.executable, "-c", code, *arguments],
    cwd=cwd,
    capture_output=True,
    text=True,
    env=environ or None,
  )
  assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
  return done.stderr


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ([BASE, "--config..caps=3"], "--config..caps names no key"),
    ([BASE, "--config.caps.=3"], "--config.caps. names no key"),
    ([BASE, "--config.caps[0]=3"], "--config.caps[0] names no key"),
    ([BASE, "--config.seed.x=3"], "--config.seed.x names no key"),
    (["--config", "configs/online.py", "--config.cabs=3"], "mean 'caps'"),
    ([BASE, "--config.teacher.extra.top_k=3"], "whole: config.teacher.extra="),
    ([BASE, OTHER], "given twice: configs/online.py and configs/proxy.py\n"),
    ([OTHER, BASE, "--config.seed=1"], "error: --config is given twice: conf"),
    (
      [BASE, "-config", "b", "--config.reward=1"],
      "twice: configs/online.py and b",
    ),
    ([BASE, "--flagfile=/no/such"], "Unable to open flagfile"),
    (["--flagfile=EXTRA"], "HOME/no.py"),
    ([BASE, "--config.choosing.require_proof=x"], "x: valid: true, false\n"),
    ([BASE, "--config.teacher.extra=3"], "valid: {'KEY': VALUE, ...}\n"),
    ([BASE, "--config.teacher.extra={"], "valid: {'KEY': VALUE, ...}\n"),
    ([BASE, "--config.seed=one"], "seed=one: valid: a whole number\n"),
    (["--config=~/no.py"], "HOME/no.py"),
    (["--config=ENDS.py"], "the file ends the program: bye"),
    (["--config=EMPTY.py"], "EMPTY.py has no function get_config"),
  ],
)
def test_a_flag_or_file_that_gives_no_config(
  arguments, words, repo_root, tmp_path
):
  (tmp_path / "ENDS.py").write_text("import sys\nsys.exit('bye')\n")
  (tmp_path / "EMPTY.py").write_text("steps = 3\n")
  (tmp_path / "EXTRA").write_text("--config=~/no.py\n")
  arguments = [a.replace("=E", f"={tmp_path}/E") for a in arguments]
  words = words.replace("HOME", os.path.expanduser("~"))
  assert words in told(_LAUNCHER, *arguments, cwd=repo_root)


def test_a_flag_that_is_refused_shows_no_key(repo_root):
  arguments = [BASE, "--config.seed=a-long-secret"]
  key = {"OPENAI_API_KEY": "a-long-secret"}
  assert "seed=***: " in told(_LAUNCHER, *arguments, cwd=repo_root, **key)


@pytest.mark.parametrize(
  ("main", "arguments", "words"),
  [
    ("open('/dev/null/x')", ["--workdir=x"], "/dev/null/x: Not a directory"),
    ("None", ["--workdir="], "--workdir=: must be a local directory"),
    ("None", ["steps=3"], "unexpected arguments: steps=3; flags begin with --"),
    ("open(common.workdir())", ["--workdir=~/no/x"], "HOME/no/x: No such file"),
    ("raise OSError(28, 'full')", ["--workdir=x"], "error: a disk: full"),
  ],
)
def test_a_place_that_cannot_be_written(main, arguments, words, repo_root):
  code = (
    f"from launchers import common\ndef main():\n  {main}\ncommon.launch(main)"
  )
  words = words.replace("HOME", os.path.expanduser("~"))
  assert words in told(code, *arguments, cwd=repo_root)
