"""What `pip install` of the project brings, used where there is no checkout."""

import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import atlas_jax

ROOT = Path(__file__).resolve().parent.parent
# Folder of the checkout -> package.
PACKAGES = {
  "atlas_jax": "atlas_jax",
  "configs": "atlas_jax/configs",
  "launchers": "atlas_jax/launchers",
  "third_party/atlas_vllm": "atlas_vllm",
}


@pytest.fixture(scope="module")
def modules() -> dict[Path, str]:
  """Files of the checkout that are installed -> where."""
  return {
    path: f"{package}/{path.relative_to(ROOT / folder)}"
    for folder, package in PACKAGES.items()
    for path in sorted((ROOT / folder).rglob("*.py"))
  }


@pytest.fixture(scope="module")
def site(modules, tmp_path_factory) -> Path:
  """A directory of packages that holds the project alone, from a wheel."""
  source = tmp_path_factory.mktemp("source")
  others = ("pyproject.toml", "README.md", "LICENSE")
  for path in (*modules, *(ROOT / name for name in others)):
    copy = source / path.relative_to(ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, copy)
  out = tmp_path_factory.mktemp("site")
  subprocess.run(
    [
      *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
      *("--no-index", "--no-build-isolation", "--target", out, source),
    ],
    check=True,
  )
  return out


@pytest.fixture
def command(site, tmp_path):
  """Runs the installed command in an empty directory."""

  def run(*arguments):
    return subprocess.run(
      [site / "bin" / "atlas-jax", *arguments],
      cwd=tmp_path,
      capture_output=True,
      text=True,
      timeout=120,
      env={**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
    )

  return run


def test_every_module_is_installed_and_none_beside_the_packages(site, modules):
  found = {
    str(path.relative_to(site))
    for path in site.rglob("*.py")
    if "__pycache__" not in path.parts
  }
  assert found == set(modules.values())
  (info,) = site.glob("*.dist-info")
  assert {path.name for path in site.iterdir()} == {
    *("atlas_jax", "atlas_vllm", "bin", info.name)
  }


def test_there_is_one_version(site):
  (found,) = importlib.metadata.distributions(path=[str(site)])
  assert found.version == atlas_jax.__version__
  citation = (ROOT / "CITATION.cff").read_text()
  assert re.findall(r"(?m)^version: (.+)$", citation) == [found.version]
  changes = (ROOT / "CHANGELOG.md").read_text()
  assert re.findall(r"(?m)^## (\S+)", changes)[0] == found.version


def test_the_entry_points(site):
  (info,) = site.glob("*.dist-info")
  entries = configparser.ConfigParser()
  entries.read(info / "entry_points.txt")
  assert dict(entries["console_scripts"]) == {
    "atlas-jax": "atlas_jax.launchers.cli:main"
  }
  assert "atlas_weights" in entries["vllm.general_plugins"]
  assert "atlas_update" in entries["vllm.endpoint_plugins"]


@pytest.mark.parametrize(
  ("name", "flags", "told"),
  [
    ("train", ["quickstart.py:x", "--workdir=run"], "valid: student, teacher"),
    ("train", ["teacher.py:x", "--workdir=run"], "valid: "),
    ("optimize", ["online.py:x", "--workdir=run"], "valid: default, local"),
    ("proxy", ["proxy.py", "--config.nothing=1"], "config.nothing"),
    ("agent_check", ["agents/cli.py", "--config.nothing=1"], "config.nothing"),
  ],
)
def test_the_installed_configs_are_found(command, name, flags, told):
  done = command(name, f"--config=configs/{flags[0]}", *flags[1:])
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ") and told in line


def test_the_installed_command_works(command, tmp_path, site):
  assert "convert_gguf" in command("--help").stdout
  done = command(
    "teachable",
    "--config=configs/quickstart.py:student",
    "--config.teacher.path=untrained",
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "untrained/config.json").is_file()
  assert {path.name for path in tmp_path.iterdir()} == {"untrained"}
  assert not (site / "atlas_jax/.cache").exists()
