"""SFT that must not lie or get lost: stopped, damaged, diverged, resumed."""

import itertools
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from atlas_jax.model.names import WeightsError
from atlas_jax.phases import sft
from atlas_jax.phases.teacher import Teacher
from atlas_jax.phases.training_phase import TrainingError
from tests import forked
from tests.phases import small_sft


def nan_model(model, path):
  shutil.copytree(model, path)
  tensors = load_file(path / "model.safetensors")
  name = "model.layers.1.mlp.up_proj.weight"
  tensors[name] = np.full_like(tensors[name], np.nan)
  save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
  return path, name


# Updates that are left out.


def test_a_model_of_nan_stops_after_so_many_steps(model, tmp_path):
  bad, _ = nan_model(model, tmp_path / "nan")
  message = r"3 steps in a row .* nan.*0_sft_3.*config\.sft\.optimizer"
  with pytest.raises(TrainingError, match=message) as error:
    small_sft.run(bad, tmp_path / "run", sft__max_skipped_steps=3)
  assert "config.grpo" not in str(error.value)
  assert not (tmp_path / "run" / "export").exists()
  assert (tmp_path / "run" / "failed" / "0_sft_3.npz").exists()
  # Again: the count goes on where the checkpoint of step 2 has it.
  with pytest.raises(TrainingError, match=r"3 steps in a row"):
    small_sft.run(bad, tmp_path / "run", sft__max_skipped_steps=3)


@pytest.mark.slow
def test_a_learning_rate_that_breaks_the_weights_stops(model, tmp_path):
  with pytest.raises(TrainingError, match="5 steps in a row"):
    small_sft.run(
      model,
      tmp_path / "run",
      sft__steps=20,
      sft__optimizer__learning_rate=1e38,
      sft__optimizer__schedule="constant",
    )


def test_a_short_phase_that_trained_nothing_stops_too(model, tmp_path):
  bad, _ = nan_model(model, tmp_path / "nan")
  with pytest.raises(TrainingError, match="2 steps in a row"):
    small_sft.run(
      bad, tmp_path / "run", sft__steps=2, sft__optimizer__warmup_steps=0
    )


def test_weights_that_are_not_finite_are_not_exported(model, tmp_path):
  bad, name = nan_model(model, tmp_path / "nan")
  message = re.escape(name) + ".* NaN or infinite in bfloat16"
  with pytest.raises(WeightsError, match=message) as error:
    small_sft.run(
      bad, tmp_path / "run", phases=("export",), export__dtype="bfloat16"
    )
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run" / "export").exists()


# Errors and signals.


def test_an_error_loses_no_save_that_is_under_way(model, tmp_path, monkeypatch):
  full_batches = sft.full_batches

  def failing(*args):
    yield from itertools.islice(full_batches(*args), 3)
    raise RuntimeError("broken in the middle")

  monkeypatch.setattr(sft, "full_batches", failing)
  with pytest.raises(RuntimeError, match="broken in the middle"):
    small_sft.run(model, tmp_path / "run", sft__checkpoint_every=1)
  folder = tmp_path / "run" / "checkpoints" / "0_sft"
  steps = [p.name for p in folder.iterdir()]
  assert steps and all(name.isdigit() for name in steps), steps
  for name in steps:
    assert (folder / name / "atlas.json").exists()


# Only a signal can bring a checkpoint before the last step.
STEPS = 50
LONG = {"sft__steps": STEPS, "sft__checkpoint_every": 1000}


@pytest.fixture(scope="module")
def undisturbed_sft(model, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("undisturbed") / "run"
  small_sft.run(model, workdir, **LONG)
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
  ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_saves_and_the_next_start_goes_on(
  model, tmp_path, number, status, undisturbed_sft, caplog
):
  workdir = tmp_path / "run"
  process = forked.Process(
    "launchers.train",
    *small_sft.flags(model, workdir, **LONG),
    stderr=subprocess.STDOUT,
  )
  end = time.monotonic() + 120
  file = workdir / "metrics.jsonl"
  while not (file.exists() and file.read_text().count("\n") > 2):
    assert process.poll() is None and time.monotonic() < end
    time.sleep(0.02)
  process.send_signal(number)
  said = process.communicate(timeout=120)[0]
  assert process.returncode == status, said
  assert f"error: stopped by {number.name}" in said and "Traceback" not in said
  (step,) = (int(p.name) for p in (workdir / "checkpoints/0_sft").iterdir())
  assert 2 < step < STEPS
  assert small_sft.numbers(workdir)[-1]["step"] == step
  with caplog.at_level("INFO"):
    small_sft.run(model, workdir, **LONG)
  assert f"0_sft continues from step {step} of {STEPS}" in caplog.text
  told = [x["step"] for x in small_sft.numbers(workdir)]
  assert told == list(range(1, STEPS + 1))
  small_sft.assert_same(workdir, undisturbed_sft)


# Epochs.


@pytest.mark.slow
def test_epochs_are_counted_by_examples(model, tmp_path, monkeypatch):
  def run(workdir, **changes):
    small_sft.run(
      model,
      workdir,
      sft__steps=None,
      sft__epochs=1.5,
      data__sft_params={"count": 100},
      **changes,
    )

  run(tmp_path / "run")
  lines = small_sft.numbers(tmp_path / "run")
  epochs = [x["0_sft/epochs"] for x in lines]
  assert epochs[-1] >= 1.5 > epochs[-2]
  assert all(0 < b - a < 1 for a, b in itertools.pairwise(epochs))
  # Broken off and resumed, it is the same run.
  taken, put = [], Teacher.put

  def broken(self, *batch):
    taken.append(1)
    if len(taken) == 4:
      raise KeyboardInterrupt
    return put(self, *batch)

  monkeypatch.setattr(Teacher, "put", broken)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / "again")
  run(tmp_path / "again")
  small_sft.assert_same(tmp_path / "again", tmp_path / "run")


def test_epochs_of_a_position():
  assert sft.epochs_of({"epoch": 2, "offset": 1, "size": 4}) == 2.25
