"""Where a run's templates come from when it is started again."""

import json
import os
import subprocess
import sys

import pytest

from atlas_jax import config as training
from atlas_jax.config import to_dict
from atlas_jax.directory import write_json
from atlas_jax.online import config as online
from atlas_jax.teaching.prompts import PromptError
from launchers import common
from tests.online import small_world


def write(path, teacher_adaptive):
  prompts = small_world.SEED | {"teacher_adaptive": teacher_adaptive}
  path.write_text(json.dumps({"prompts": prompts}))


@pytest.mark.parametrize("of_training", [True, False])
def test_a_run_goes_on_with_the_templates_that_it_began_with(
  tmp_path, of_training
):
  path, other = tmp_path / "best.json", tmp_path / "other.json"
  write(path, small_world.GOOD)
  if of_training:
    resolve, tree = training.resolve, training.default_config()
  else:
    resolve = online.resolve
    tree = small_world.tree(tmp_path, "http://127.0.0.1:1")
  tree.prompts_path = str(path)
  run = tmp_path / "run"
  first = common.resolved(resolve, tree, run)
  assert first.prompts.teacher_adaptive == small_world.GOOD
  assert first.prompts_path == str(path)
  write_json(run / "config.json", to_dict(first))
  write(path, "TEACH {question} {approach} in another way")
  assert common.resolved(resolve, tree, run) == first
  path.unlink()
  assert common.resolved(resolve, tree, run) == first
  with pytest.raises(PromptError, match="cannot be read"):
    common.resolved(resolve, tree, None)
  # A path that is given anew is read.
  write(other, "TEACH {question} {approach} briefly")
  tree.prompts_path = str(other)
  found = common.resolved(resolve, tree, run)
  assert found.prompts.teacher_adaptive.endswith("briefly")


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    (
      ["--config=configs/quickstart.py", "--config.grpo.bta=1"],
      "--config.grpo.bta names no key (did you mean beta?)",
    ),
    (
      ["--config=configs/quickstart.py", "--config.zz.beta=1"],
      "--config.zz.beta names no key;",
    ),
    (
      ["--config=configs/quickstart.py", "--config.grpo.beta=abc"],
      "--config.grpo.beta=abc: could not convert",
    ),
    (["--config=configs/quickstart.py:no"], "valid: student, teacher"),
    (["--config=configs/nothing.py"], "configs/nothing.py"),
    (["--config=configs/quickstart.py", "--workdri=x"], "workdir"),
    ([], "--config must have a value"),
    (["--config=BROKEN"], "Traceback"),
  ],
)
def test_an_error_of_the_flags_is_one_line(
  arguments, told, repo_root, tmp_path
):
  broken = tmp_path / "broken.py"
  broken.write_text("def get_config():\n  return None.nothing\n")
  arguments = [a.replace("BROKEN", str(broken)) for a in arguments]
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launchers.train", *arguments),
      f"--workdir={tmp_path}/run",
    ],
    cwd=repo_root,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1 and told in done.stderr
  if told != "Traceback":
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_launcher_without_a_config_runs(repo_root, tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launchers.export"),
      *(f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"),
    ],
    cwd=repo_root,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert done.stderr.startswith("error: ") and "config.json" in done.stderr


def test_compiled_programs_of_an_installation_lie_with_the_users(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
  monkeypatch.setattr(common, "_ROOT", tmp_path)
  assert common._cache() == tmp_path / "mine" / "atlas_jax"
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert common._cache() == tmp_path / ".cache" / "atlas_jax"
  (tmp_path / "pyproject.toml").touch()
  assert common._cache() == tmp_path / ".cache"


def test_errors_logs_and_tracebacks_command_no_terminal(tmp_path, repo_root):
  program = (
    "import logging, sys, warnings\n"
    "from atlas_jax.files import FileError\n"
    "from launchers import common\n"
    "def main():\n"
    "  logging.getLogger('x').warning('log %s', '\\x1b[31m')\n"
    "  warnings.warn('warning \\x9b')\n"
    "  print('print \\x07')\n"
    "  raise (FileError if len(sys.argv) == 1 else KeyError)('end \\x1b[2J')\n"
    "if __name__ == '__main__': common.launch(main)\n"
  )
  (tmp_path / "program.py").write_text(program)
  for flags, end in (([], r"error: end \x1b[2J"), (["--", "x"], "")):
    done = subprocess.run(
      [sys.executable, str(tmp_path / "program.py"), *flags],
      cwd=repo_root,
      env={**os.environ, "PYTHONPATH": str(repo_root)},
      capture_output=True,
      text=True,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 1, shown
    assert not any(c in shown for c in "\x1b\x9b\x07")
    if not flags:
      assert end in done.stderr
      assert r"print \x07" in done.stdout
      assert r"log \x1b[31m" in done.stderr
      assert r"warning \x9b" in done.stderr
