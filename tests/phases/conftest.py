"""A tiny model of the built-in task, and one undisturbed run of all phases."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

from atlas_jax import metrics
from tests.phases import small_sft, tiny_road


@dataclasses.dataclass
class Road:
  """Runs the launchers with the configuration of `tiny_road`."""

  root: pathlib.Path
  model: pathlib.Path

  def command(self, workdir: pathlib.Path, *flags: str) -> list[str]:
    return [
      sys.executable,
      *("-m", "launchers.train", "--config=configs/quickstart.py"),
      f"--workdir={workdir}",
      f"--config.teacher.path={self.model}",
      f"--config.student.path={self.model}",
      *(f"--config.{key}={value}" for key, value in tiny_road.CHANGES.items()),
      *flags,
    ]

  def start(self, workdir: pathlib.Path, *flags: str) -> subprocess.Popen:
    """The run in the background, what it says in workdir.log."""
    with open(f"{workdir}.log", "ab") as out:
      return subprocess.Popen(
        self.command(workdir, *flags),
        cwd=self.root,
        stdout=out,
        stderr=subprocess.STDOUT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
      )

  def finish(self, workdir: pathlib.Path, *flags: str) -> str:
    """The run to its end; what it said."""
    done = self.start(workdir, *flags).wait(600)
    said = pathlib.Path(f"{workdir}.log").read_text(errors="replace")
    assert done == 0, said[-6000:]
    return said


def numbers(workdir: pathlib.Path) -> list[dict]:
  """metrics.jsonl without what a clock or a restart makes different."""
  kept = []
  for line in metrics.read_jsonl(workdir / "metrics.jsonl"):
    kept.append(
      {
        k: v
        for k, v in line.items()
        if not k.endswith(tiny_road.NOT_REPRODUCED)
      }
    )
  return kept


def episodes(workdir: pathlib.Path) -> list[dict]:
  """All training episodes, without their clocks."""
  path = workdir / "episodes" / "1_grpo.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  return [{k: v for k, v in x.items() if k != "seconds"} for x in lines]


@pytest.fixture(scope="session")
def road(tmp_path_factory, repo_root) -> Road:
  work = tmp_path_factory.mktemp("road")
  model = tiny_road.write_model(work / "model")
  return Road(repo_root, model)


@pytest.fixture(scope="session")
def undisturbed(road, tmp_path_factory) -> tuple[pathlib.Path, str]:
  """(run directory, what it said) of a run that nobody disturbed."""
  workdir = tmp_path_factory.mktemp("undisturbed") / "run"
  return workdir, road.finish(workdir)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
  return tiny_road.write_model(tmp_path_factory.mktemp("lost") / "model")


@pytest.fixture(scope="session")
def whole(model, tmp_path_factory):
  """The directory of a run that nobody disturbed."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  small_sft.run(model, workdir)
  return workdir
