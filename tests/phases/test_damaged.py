"""Runs pass by damaged checkpoints, and put theirs where the config says.

Each damage: tests/test_damaged_checkpoints.py.
"""

import json
import logging
import shutil

import pytest

from atlas_jax import directory
from atlas_jax.checkpoint import CheckpointError
from atlas_jax.directory import RunError
from atlas_jax.phases import export
from tests.phases import small_sft
from tests.phases.damages import biggest, empty, flip, said


def damaged(whole, workdir, damage, steps=(6,)):
  shutil.copytree(whole, workdir)
  shutil.rmtree(workdir / "export")
  for step in steps:
    damage(workdir / "checkpoints" / "0_sft" / str(step))


def test_a_run_goes_on_from_the_newest_whole_checkpoint(
  whole, model, tmp_path, caplog
):
  workdir = tmp_path / "run"
  damaged(whole, workdir, lambda step: flip(biggest(step)))
  with caplog.at_level(logging.WARNING, logger="atlas_jax.checkpoint"):
    small_sft.run(model, workdir)
  first, second = said(caplog)
  assert first.startswith(f"checkpoint 6 in {workdir}/checkpoints/0_sft ")
  assert second == "going on from checkpoint 4, the newest whole one"
  small_sft.assert_same(workdir, whole)
  caplog.clear()  # The damaged one was written anew.
  small_sft.run(model, workdir)
  assert not said(caplog)


def test_two_steps_may_be_damaged_in_two_ways(whole, model, tmp_path, caplog):
  workdir = tmp_path / "run"
  small_sft.run(model, workdir, keep_checkpoints=3)
  shutil.rmtree(workdir / "export")
  folder = workdir / "checkpoints" / "0_sft"
  (folder / "6" / "atlas.json").write_text("")
  flip(biggest(folder / "4"))
  (folder / "8").write_text("a file")
  with caplog.at_level(logging.WARNING, logger="atlas_jax.checkpoint"):
    small_sft.run(model, workdir, keep_checkpoints=3)
  assert said(caplog)[2] == "going on from checkpoint 2, the newest whole one"
  small_sft.assert_same(workdir, whole)


def test_an_empty_folder_of_a_later_step_is_passed_by(whole, model, tmp_path):
  workdir = tmp_path / "run"
  damaged(whole, workdir, lambda step: None)
  (workdir / "checkpoints" / "0_sft" / "9").mkdir()
  small_sft.run(model, workdir)
  small_sft.assert_same(workdir, whole)


def test_where_all_are_damaged_nothing_begins_anew(whole, model, tmp_path):
  workdir = tmp_path / "run"
  damaged(whole, workdir, empty, steps=(4, 6))
  before = (workdir / "metrics.jsonl").read_bytes()
  with pytest.raises(CheckpointError, match=r"all .* damaged: \[6, 4\]") as e:
    small_sft.run(model, workdir)
  assert "\n" not in str(e.value)
  assert (workdir / "metrics.jsonl").read_bytes() == before


def test_the_export_launcher_passes_by_a_damaged_one_too(
  whole, model, tmp_path, caplog
):
  workdir = tmp_path / "run"

  def flip_model(step):
    flip(biggest(step / "model"))

  damaged(whole, workdir, flip_model)
  export.export_run(workdir, tmp_path / "model", "float32")
  assert "going on from checkpoint 4" in caplog.text
  # It reads: what is damaged stays for whoever wants to look.
  assert (workdir / "checkpoints" / "0_sft" / "6").exists()
  flip_model(workdir / "checkpoints" / "0_sft" / "4")
  with pytest.raises(CheckpointError, match=r"all .* damaged: \[6, 4\]"):
    export.export_run(workdir, tmp_path / "other", "float32")
  assert not (tmp_path / "other").exists()


def test_the_last_phase_that_saved_something_is_exported(whole, tmp_path):
  workdir, path = tmp_path / "run", tmp_path / "run" / "config.json"
  shutil.copytree(whole, workdir)
  config = json.loads(path.read_text())
  config["phases"] = ["sft", "grpo", "export"]
  config["mesh"]["fsdp"] = 64  # not the devices of this machine
  path.write_text(json.dumps(config))
  folder = workdir / "checkpoints"
  shutil.copytree(folder / "0_sft", folder / "1_grpo")
  shutil.rmtree(folder / "0_sft" / "6")

  def exported(name):
    export.export_run(workdir, tmp_path / name, "float32")
    return (tmp_path / name / "model.safetensors").read_bytes()

  # Step 6, of the run's own export; then step 4, the phase before.
  last = (whole / "export" / "model.safetensors").read_bytes()
  assert exported("of_grpo") == last
  for step in ("4", "6"):
    shutil.rmtree(folder / "1_grpo" / step)
  assert exported("of_sft") != last
  shutil.rmtree(folder)
  with pytest.raises(CheckpointError, match="no checkpoint to export"):
    exported("of_nothing")


# Where checkpoints are, and how many.


def test_checkpoints_lie_where_the_config_says(model, whole, tmp_path):
  place, workdir = tmp_path / "far" / "away", tmp_path / "run"
  small_sft.run(model, workdir, checkpoints_dir=str(place), keep_checkpoints=3)
  steps = {p.name for p in (place / "0_sft").iterdir()}
  assert steps == {"2", "4", "6"}
  assert not (workdir / "checkpoints").exists()
  small_sft.assert_same(workdir, whole)
  export.export_run(workdir, tmp_path / "model", "float32")
  assert (tmp_path / "model" / "model.safetensors").exists()
  # Another run may not write there, nor this one where it has nothing.
  with pytest.raises(RunError, match="belongs to another run"):
    small_sft.run(model, tmp_path / "b", checkpoints_dir=str(place))
  assert not (tmp_path / "b" / "config.json").exists()
  shutil.rmtree(place)
  with pytest.raises(RunError, match="is not that of this run"):
    small_sft.run(
      model, workdir, checkpoints_dir=str(place), keep_checkpoints=3
    )


@pytest.mark.parametrize(
  "url",
  ["memory://x/y", "gs://bucket/x", "nope://x", "relative/path", "s3://b/c"],
)
def test_a_place_that_cannot_be_written_is_one_line(model, tmp_path, url):
  config = small_sft.config(model, {"checkpoints_dir": url})
  with pytest.raises(RunError, match="checkpoints_dir=") as error:
    directory.claim_checkpoints(config, tmp_path)
  assert url in str(error.value) and "\n" not in str(error.value)


def test_no_run_begins_without_a_place(model, tmp_path):
  with pytest.raises(RunError, match="checkpoints_dir=relative/path"):
    small_sft.run(model, tmp_path / "run", checkpoints_dir="relative/path")
  assert not (tmp_path / "run" / "config.json").exists()


def test_how_many_stay_may_change_on_a_resume(model, whole, tmp_path):
  shutil.copytree(whole, tmp_path / "run")
  small_sft.run(model, tmp_path / "run", keep_checkpoints=5)
  kept = json.loads((tmp_path / "run" / "config.json").read_text())
  assert kept["keep_checkpoints"] == 5
