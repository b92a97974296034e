"""Tiny models, and runs that nobody disturbed: one of all phases, one of SFT.

Both are made once, and many tests read them.
"""

import os
import pathlib

import pytest

from atlas_jax import progress
from tests.phases import road as road_lib
from tests.phases import shared_programs, small_sft
from tests.screens import Screen, launched


@pytest.fixture(scope="module", autouse=True)
def programs():
  with pytest.MonkeyPatch.context() as patch:
    shared_programs.share(patch)
    yield


@pytest.fixture(scope="session")
def model(road_model) -> pathlib.Path:
  return road_model


@pytest.fixture(scope="session")
def road(model, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("shared") / "servers"
  flags = road_lib.config_flags(model, workdir)
  servers = road_lib.SharedServers(workdir, flags)
  try:
    servers.wait()
    yield road_lib.Road(model, servers)
    servers.end()
  finally:
    servers.process.kill()


@pytest.fixture(scope="session")
def undisturbed(road, tmp_path_factory) -> tuple[pathlib.Path, str]:
  """(run directory, what it said)."""
  workdir = tmp_path_factory.mktemp("undisturbed") / "run"
  return workdir, road.finish(workdir)


@pytest.fixture(scope="session")
def whole(model, tmp_path_factory) -> pathlib.Path:
  """The directory of the run of SFT and export.

  Beside it lies `console`: what it wrote to its terminal, of 200 columns.
  """
  workdir = tmp_path_factory.mktemp("whole") / "run"
  screen = Screen(columns=200)
  with (
    pytest.MonkeyPatch.context() as patch,
    os.fdopen(os.dup(screen.fd), "w") as stream,
    launched(stream),
  ):
    patch.setattr(progress, "DRAW_EVERY_S", 0.001)
    small_sft.run(model, workdir)
  workdir.with_name("console").write_text(screen.close(), newline="")
  return workdir
