"""atlas-jax: its list, what it refuses, and that it is the same launchers."""

import ast
import os
import subprocess
import sys

import pytest

from atlas_jax import __version__
from launchers import cli


def atlas_jax(*arguments, cwd, root):
  return subprocess.run(
    [sys.executable, "-P", "-m", "launchers.cli", *arguments],
    cwd=cwd,
    capture_output=True,
    text=True,
    timeout=120,
    env={**os.environ, "PYTHONPATH": str(root)},
  )


def tree_of(root, name):
  return ast.parse((root / "launchers" / f"{name}.py").read_text())


def test_every_launcher_is_a_command(repo_root):
  launchers = {
    path.stem
    for path in (repo_root / "launchers").glob("*.py")
    if "common.launch(main)" in path.read_text()
  }
  assert set(cli.COMMANDS) == launchers | {"convert_gguf"}


def test_help_lists_the_commands_with_a_line_each(repo_root, tmp_path):
  done = atlas_jax("--help", cwd=tmp_path, root=repo_root)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  for name in cli.COMMANDS:
    first = ast.get_docstring(tree_of(repo_root, name)).splitlines()[0]
    assert [line.split() for line in lines].count([name, *first.split()]) == 1


@pytest.mark.parametrize(
  ("arguments", "what"),
  [
    (["trian", "--workdir=x"], "unknown command 'trian'"),
    (["--workdir=x"], "unknown command '--workdir=x'"),
    (["common"], "unknown command 'common'"),
    (["..train"], "unknown command '..train'"),
    ([], "no command"),
  ],
)
def test_what_is_no_command_gets_the_list_of_those(
  arguments, what, repo_root, tmp_path
):
  done = atlas_jax(*arguments, cwd=tmp_path, root=repo_root)
  assert (done.returncode, done.stdout) == (1, "")
  (line,) = done.stderr.splitlines()
  assert line.startswith(f"error: {what}; valid: ")
  assert all(name in line for name in cli.COMMANDS)


def test_the_version_is_said(repo_root, tmp_path):
  done = atlas_jax("--version", cwd=tmp_path, root=repo_root)
  assert done.stdout == f"atlas_jax {__version__}\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_flags_go_through(command, repo_root, tmp_path):
  done = atlas_jax(command, "--no_such=1", cwd=tmp_path, root=repo_root)
  same = subprocess.run(
    [sys.executable, "-m", f"launchers.{command}", "--no_such=1"],
    cwd=repo_root,
    capture_output=True,
    text=True,
  )
  assert done.returncode == same.returncode != 0
  assert done.stderr == same.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
  ("answer", "status"), [("<solution>4</solution>", 0), ("", 1)]
)
def test_a_module_beside_the_user_is_found(answer, status, repo_root, tmp_path):
  (tmp_path / "my_agent.py").write_text(
    f"def answer(prompt):\n  return {answer!r}\n"
  )
  # Nothing that is installed is replaced by it.
  (tmp_path / "absl.py").write_text("raise RuntimeError('mine')\n")
  done = atlas_jax(
    "agent_check",
    "--config=configs/agents/python.py",
    cwd=tmp_path,
    root=repo_root,
  )
  assert done.returncode == status, done.stdout + done.stderr
  assert "my_agent:answer" in done.stdout


def test_a_config_of_the_user_comes_before_ours(repo_root, tmp_path):
  def refused(where):
    done = atlas_jax(
      "train",
      "--config=configs/quickstart.py:mine",
      "--workdir=run",
      cwd=where,
      root=repo_root,
    )
    assert done.returncode == 1
    return done.stderr

  assert "valid: student, teacher" in refused(tmp_path)
  (tmp_path / "configs").mkdir()
  own = tmp_path / "configs" / "quickstart.py"
  own.write_text("def get_config(variant):\n  raise ValueError('my own')\n")
  assert "my own" in refused(tmp_path)
