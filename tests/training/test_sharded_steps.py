"""A step on 8 devices is the step on one, however they are arranged."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.training import sharded_steps

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_MESHES = tuple(sharded_steps.MESHES)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
  path = tmp_path_factory.mktemp("steps") / "out.npz"
  flags = os.environ.get("XLA_FLAGS", "")
  flags += " --xla_force_host_platform_device_count=8"
  env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
  command = [sys.executable, "-m", "tests.training.sharded_steps", str(path)]
  done = subprocess.run(
    command, cwd=_ROOT, env=env, capture_output=True, text=True, timeout=800
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return np.load(path)


@pytest.mark.parametrize(("mesh", "objective"), sharded_steps.RUNS)
def test_loss_and_gradient_are_those_of_one_device(results, mesh, objective):
  got = f"{mesh}/{objective}"
  plain = f"none/{sharded_steps.SAME.get(objective, objective)}"
  for key in ("loss", "grad_norm"):
    # A loss near zero is what is left of terms near one.
    wanted = pytest.approx(results[f"{plain}/{key}"], rel=1e-5, abs=1e-7)
    assert results[f"{got}/{key}"] == wanted
  expected = results[f"{plain}/gradient"]
  assert np.linalg.norm(expected) == pytest.approx(
    float(results[f"{plain}/grad_norm"]), rel=1e-5
  )
  difference = np.abs(results[f"{got}/gradient"] - expected)
  assert difference.max() < 1e-5 * np.abs(expected).max()
  assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("mesh", sharded_steps.SCORED)
def test_scores_are_those_of_one_device(results, mesh):
  expected = results["none/score"]
  np.testing.assert_allclose(results[f"{mesh}/score"], expected, atol=1e-5)
  real = sharded_steps.make_batch("grpo").loss_mask > 0
  assert (expected[real] < 0).all()


@pytest.mark.parametrize(("mesh", "objective"), sharded_steps.RUNS)
def test_the_second_step_compiles_nothing(results, mesh, objective):
  assert results[f"{mesh}/{objective}/programs"] == 1


def test_a_checkpoint_of_one_mesh_is_read_on_another(results):
  found = {name: results[name] for name in results if "restored/" in name}
  assert len(found) == len(sharded_steps.RESTORED) and all(found.values())


@pytest.mark.parametrize("mesh", _MESHES)
def test_an_export_is_whole_however_the_model_lies(results, mesh):
  assert results[f"exported/{mesh}"]
