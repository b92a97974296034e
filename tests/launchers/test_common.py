"""Where a run's templates come from when it is started again."""

import dataclasses
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from atlas_jax import config as training
from atlas_jax.data import sources
from atlas_jax.directory import write_json
from atlas_jax.errors import AtlasError
from atlas_jax.online.search import config as online
from atlas_jax.teaching.prompts import PromptError
from launchers import common
from tests import forked
from tests.online import small_world


def write(path, teacher):
  prompts = small_world.SEED | {"teacher": teacher}
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
  first = resolve(tree, run)
  assert first.prompts.teacher == small_world.GOOD
  assert first.prompts_path == str(path)
  write_json(run / "config.json", dataclasses.asdict(first))
  write(path, "TEACH {question} {probe} in another way")
  assert resolve(tree, run) == first
  path.unlink()
  assert resolve(tree, run) == first
  with pytest.raises(PromptError, match="cannot be read"):
    resolve(tree)
  # A path that is given anew is read.
  write(other, "TEACH {question} {probe} briefly")
  tree.prompts_path = str(other)
  found = resolve(tree, run)
  assert found.prompts.teacher.endswith("briefly")


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    (
      ["--config=configs/quickstart.py", "--config.grpo.bta=1"],
      "--config.grpo.bta names no key (did you mean 'grpo.beta'?)",
    ),
    (
      ["--config=configs/quickstart.py", "--config.zz.beta=1"],
      "--config.zz.beta names no key (did you mean 'grpo.beta'?)",
    ),
    (
      ["--config=configs/quickstart.py", "--config.grpo.learning_rate=1"],
      "--config.grpo.learning_rate names no key (did you mean"
      " 'grpo.optimizer.learning_rate' or 'sft.optimizer.learning_rate'?)",
    ),
    (
      ["--config=configs/quickstart.py", "--config.lerning_rate", "1"],
      "'sft.optimizer.learning_rate'",
    ),
    (
      ["--config=configs/quickstart.py", "--config.qqqq=1"],
      "--config.qqqq names no key; they are in configs/README.md",
    ),
    (
      ["--config=configs/quickstart.py", "--config.grpo.steps=None"],
      "config.grpo.steps must be int, got NoneType None",
    ),
    (
      ["--config=configs/quickstart.py", "--config.grpo.beta="],
      "config.grpo.beta must be float, got NoneType None",
    ),
    (
      ["--config=configs/quickstart.py", "--config.phases="],
      "config.phases names no phase",
    ),
    (
      ["--config=configs/quickstart.py", "--workdir=gs://bucket/run"],
      "--workdir=gs://bucket/run: must be a local directory, not a URL",
    ),
    (
      ["--config=configs/quickstart.py", "--config.export.path=gs://b/x"],
      "config.export.path='gs://b/x' must be a local directory",
    ),
    (
      ["--config=configs/quickstart.py", "--num_processes=2", "--process_id=1"],
      "--num_processes and --process_id need --coordinator",
    ),
    (
      ["--config=configs/quickstart.py", "--process_id=0"],
      "--num_processes and --process_id need --coordinator",
    ),
    (
      ["--config=configs/quickstart.py", "--coordinator=127.0.0.1:9"],
      "--coordinator=127.0.0.1:9: needs --num_processes=N",
    ),
    (
      [
        *("--config=configs/quickstart.py", "--coordinator=127.0.0.1:9"),
        *("--num_processes=2", "--process_id=2"),
      ],
      "--process_id of 0 to N-1",
    ),
    (
      [
        *("--config=configs/quickstart.py", "--coordinator=there.invalid:9"),
        *("--num_processes=2", "--process_id=1"),
      ],
      "--coordinator=there.invalid:9: ",
    ),
    (
      [
        *("--config=configs/quickstart.py", "--coordinator=127.0.0.1"),
        *("--num_processes=2", "--process_id=1"),
      ],
      "--coordinator=127.0.0.1: ",
    ),
    (["--config=configs/quickstart.py", "--coordinator=auto"], "SLURM"),
    (
      ["--config=configs/quickstart.py", "--config.grpo.beta=abc"],
      "--config.grpo.beta=abc: valid: a number",
    ),
    (["--config=configs/quickstart.py:no"], "valid: student, teacher"),
    (["--config=configs/nothing.py"], "configs/nothing.py"),
    (["--config=configs/quickstart.py", "--workdri=x"], "workdir"),
    ([], "--config must have a value"),
    (["--config=BROKEN"], "Traceback"),
    (["--config=OLD"], "old.py: config.teach names no key; it is config.epis"),
    (
      ["--config=configs/quickstart.py", "--config.grpo.delta=4"],
      "--config.grpo.delta names no key (it is config.grpo.ratio_cap now)",
    ),
    (["--config=configs/teacher.py"], "name a variant: configs/teacher.py"),
  ],
)
def test_an_error_of_the_flags_is_one_line(arguments, told, tmp_path):
  broken = tmp_path / "broken.py"
  broken.write_text("def get_config():\n  return None.nothing\n")
  old = tmp_path / "old.py"
  old.write_text(
    "from configs import proxy\ndef get_config():\n"
    "  config = proxy.get_config()\n  config.teach.max_tokens = 9\n"
  )
  arguments = [
    a.replace("BROKEN", str(broken)).replace("OLD", str(old)) for a in arguments
  ]
  given = any(a.startswith("--workdir=") for a in arguments)
  workdir = [] if given else [f"--workdir={tmp_path}/run"]
  done = forked.run("launchers.train", *arguments, *workdir)
  assert done.returncode == 1 and told in done.stderr
  if told != "Traceback":
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_launcher_without_a_config_runs(tmp_path):
  done = forked.run(
    "launchers.export",
    *(f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"),
  )
  assert done.returncode == 1
  assert done.stderr.startswith("error: ") and "config.json" in done.stderr


def test_compiled_programs_of_an_installation_lie_with_the_users(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
  assert common._cache(tmp_path) == tmp_path / "mine" / "atlas_jax"
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert common._cache(tmp_path) == tmp_path / ".cache" / "atlas_jax"
  (tmp_path / "pyproject.toml").touch()
  assert common._cache(tmp_path) == tmp_path / ".cache"


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


def test_an_error_is_hidden_first_and_cut_afterwards(
  tmp_path, monkeypatch, capsys
):
  key = "sk-" + "0123456789" * 4
  monkeypatch.setenv("SOME_API_KEY", key)
  path = tmp_path / "data.jsonl"
  path.write_bytes(b'{"question": [' + b"1," * 1_000_000 + b"1]}")
  with pytest.raises(AtlasError, match=r"data\.jsonl:1") as long:
    sources.read(training.DataConfig(source="jsonl", path=str(path)))
  address = "config.data.path='https://me:hunter2@host/x'"
  for error, shown in (
    (long.value, "data.jsonl:1"),
    (AtlasError("x" * 9990 + key), "xxx***"),
    (AtlasError(address), "error: config.data.path='https://me:***@host/x'"),
  ):
    with pytest.raises(SystemExit):
      common._end(str(error))
    told = capsys.readouterr().err
    assert shown in told and "sk-" not in told and len(told) < 11_000


@pytest.mark.parametrize("role", [0, 1])
def test_processes_that_never_meet_end_in_one_line(tmp_path, role):
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{s.getsockname()[1]}"
  done = forked.run(
    "launchers.train",
    *("--config=configs/quickstart.py", f"--workdir={tmp_path}/run"),
    *(f"--coordinator={address}", "--num_processes=2"),
    *(f"--process_id={role}", "--coordinator_timeout_s=1"),
    timeout=60,
  )
  assert done.returncode == 1
  (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
  assert f"--coordinator={address}: not all processes met there within" in line
  assert "Fatal" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
  ("config", "key", "values", "expected"),
  [
    ("quickstart", "phases", ["('sft', 'grpo')", "('sft',)"], "('sft',)"),
    ("quickstart", "phases", ["sft", "grpo"], "('grpo',)"),
    ("quickstart", "phases", ["sft", "('sft', 'grpo')"], "('sft', 'grpo')"),
    ("quickstart", "evaluate.constant_teachings", ["a", ""], "()"),
    ("quickstart", "serving.student.extra_args", ["--a", "--b"], "('--b',)"),
    ("quickstart", "data.split_fractions", ["(1.0, 0.0)"] * 2, "(1.0, 0.0)"),
    ("quickstart", "grpo.steps", ["3", "4"], "4"),
    ("quickstart", "grpo.ratio_cap", ["2.0", ""], "None"),
    ("quickstart", "grpo.ratio_cap", ["None", "2"], "2.0"),
    ("quickstart", "sft.steps", ["None"], "None"),
    ("online", "caps.dollars", [""], "None"),
    ("online", "caps.dollars", ["None"], "None"),
    ("online", "caps.calls", ["None"], "None"),
    ("online", "caps.minutes", ["None", "7"], "7.0"),
  ],
)  # fmt: skip
def test_what_a_flag_gives(tmp_path, config, key, values, expected):
  done = forked.run(
    "tests.launchers.shown_value",
    *(f"--config=configs/{config}.py", f"--workdir={tmp_path}"),
    *(f"--config.{key}={value}" for value in values),
    env={**os.environ, "SHOWN_KEY": key},
  )
  assert (done.stdout.strip(), done.returncode) == (expected, 0), done.stderr


LAUNCHERS = sorted(
  path.stem
  for path in pathlib.Path(common.__file__).parent.glob("*.py")
  if "common.launch(main)" in path.read_text()
)


@pytest.mark.parametrize("flag", ["--help", "--helpshort"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help_lists_the_flags(repo_root, launcher, flag):
  done = forked.run(f"launchers.{launcher}", flag)
  assert done.returncode == 0 and done.stderr == ""
  source = (repo_root / "launchers" / f"{launcher}.py").read_text()
  names = re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', source)
  if "define_flags(" in source:
    names.append("config")
  for name in (*names, "workdir", "coordinator"):
    assert re.search(rf"--(\[no\])?{name}:", done.stdout), name


def test_tasks_without_a_coordinator_are_told_that_they_train_alone(tmp_path):
  done = forked.run(
    *("launchers.train", f"--workdir={tmp_path}/run"),
    *("--config=configs/quickstart.py", "--config.phases="),
    env={**os.environ, "SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "1"},
  )
  first, last = done.stderr.splitlines()
  assert "SLURM_STEP_NUM_TASKS=2, and without --coordinator=auto or" in first
  assert last == "error: config.phases names no phase"
