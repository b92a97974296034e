"""Shell scripts: no name of a file or directory is ever a command."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = [
  *sorted((ROOT / "launchers").rglob("*.sh")),
  *sorted((ROOT / "launchers").rglob("*.sbatch")),
  ROOT / "tests/run.sh",
  ROOT / ".ci/run",
]
# OUT stands for a file that must not appear.
HOSTILE = [
  "a'; touch OUT; '",
  'a"; touch OUT; "',
  "a' b; touch OUT #",
  "$(touch OUT)",
  "`touch OUT`",
  "a b  c",
  "-rf",
  "--help",
  "*",
  "a\nb\ntouch OUT",
  "a;touch OUT;b",
  "a&touch OUT&b",
  "a|touch OUT",
  "$HOME",
  "${x:-y}",
  "\\",
  "%s%n",
  "é\u202e",
]


@pytest.fixture
def copy(tmp_path):
  """The scripts, and an interpreter that does nothing but note its words."""
  top = tmp_path / "top"
  (top / "launchers").mkdir(parents=True)
  for name in ("setup.sh", "quickstart.sh"):
    shutil.copy(ROOT / "launchers" / name, top / "launchers" / name)
  for name in ("requirements.txt", "pyproject.toml"):
    shutil.copy(ROOT / name, top / name)
  python = top / ".venv/bin/python"
  python.parent.mkdir(parents=True)
  python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >> "$NOTES"\n')
  python.chmod(0o755)
  return top


def run(script, *arguments, cwd, **environment):
  return subprocess.run(
    ["bash", script, *arguments],
    capture_output=True,
    cwd=cwd,
    timeout=60,
    env={**os.environ, "NOTES": str(cwd / "notes"), **environment},
  )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tmpdir_is_a_name_and_is_left_clean(copy, tmp_path, name):
  out = tmp_path / "out"
  # A slash would end the name: OUT is relative to where the script works.
  folder = tmp_path / "t" / name.replace("OUT", "out")
  folder.mkdir(parents=True)
  (folder / "kept").touch()
  done = run("launchers/setup.sh", "--smollm2", cwd=copy, TMPDIR=str(folder))
  assert done.returncode == 0, done.stderr
  assert "SmolLM2-135M-Instruct.Q4_1.gguf" in (copy / "notes").read_text()
  assert [p.name for p in folder.iterdir()] == ["kept"]
  assert not [p for p in (out, copy / "out", folder / "out") if p.exists()]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_place_of_the_repository(copy, tmp_path, name):
  place = tmp_path / name.replace("OUT", "out")
  copy.rename(place)
  script = place / "launchers/quickstart.sh"
  done = run(script, f"--workdir={name}", "--full", cwd=place)
  assert done.returncode == 0, done.stderr
  assert f"--workdir={name}/student" in (place / "notes").read_text()
  assert not [p for p in (tmp_path / "out", place / "out") if p.exists()]
  assert not (place / "OUT").exists()


def test_full_goes_on_where_the_quickstart_ends(copy):
  def commands(*flags: str) -> list[list[str]]:
    (copy / "notes").unlink(missing_ok=True)
    script = "launchers/quickstart.sh"
    done = run(script, "--config.grpo.steps=2", *flags, cwd=copy)
    assert done.returncode == 0, done.stderr
    found = (copy / "notes").read_text().split("-m\n")
    return [x.split("\n") for x in found if x.startswith("launchers.")]

  short = commands("--config.seed=3")
  assert [words[0] for words in short] == [
    *("launchers.teachable", "launchers.train", "launchers.train")
  ]
  full = commands("--config.seed=3", "--full")
  assert full[:3] == short
  assert [words[0] for words in full[3:]] == [
    *("launchers.teachable", "launchers.train", "launchers.optimize"),
    *("launchers.evaluate", *["launchers.sweep"] * 4),
  ]
  for words in full:
    swept = words[0] == "launchers.sweep"
    assert ("--seeds=3" in words, "--config.seed=3" in words) == (
      swept,
      not swept,
    )
  assert "--config.grpo.steps=2" in full[-1]
  assert "--config=configs/quickstart.py:other_student" in full[4]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_line_is_read_twice(script):
  for line in script.read_text().splitlines():
    assert not re.search(r'\btrap\s+"|\beval\b|\bsource\b|\bxargs\b', line)
    assert not re.search(r"\bsh\s+-c\b", line)
    # Options end before what is deleted.
    assert not re.search(r"\brm\s+-\w+\s+\"", line)
