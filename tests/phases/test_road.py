"""SFT, GRPO, evaluation and export with real servers: what a run leaves."""

import collections
import json

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import metrics
from atlas_jax.model import hf
from tests import forked
from tests.model.exported import exported
from tests.phases import tiny_road
from tests.phases.road import (
  SFT_STEPS,
  episodes,
  grpo_steps,
  in_grpo,
  log_of,
  numbers,
)
from tests.serving.checksum_oracle import checksum

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_a_run_leaves_what_the_readme_says(undisturbed):
  workdir, said = undisturbed
  for name in (
    "config.json",
    "checkpoints/0_sft",
    "checkpoints/1_grpo",
    "tensorboard",
    "report/2_evaluate.md",
    "report/2_evaluate.json",
    "report/learning_curve.png",
    "export/model.safetensors",
    "export/tokenizer.json",
  ):
    assert (workdir / name).exists(), name
  assert "student alone" in said and "teacher after grpo" in said
  assert f"report: {workdir}/report" in said
  # What servers and publishing say is in the run's own log alone.
  log = (workdir / "logs" / "run.log").read_text()
  assert "sent weights" in log and "sent weights" not in said
  assert "1_grpo 4/4 | took" in said and not set(said) & {"\r", "\x1b"}
  assert said.endswith(f"\n  {workdir}/logs/run.log\n")
  assert grpo_steps(workdir) == list(range(1, tiny_road.STEPS + 1))
  of_step = collections.Counter(e["step"] for e in episodes(workdir))
  for line in filter(in_grpo, numbers(workdir)):
    assert of_step[line["step"]] == 4 + line["1_grpo/refilled_groups"]


def test_the_key_of_the_servers_is_not_written(road, undisturbed):
  workdir, said = undisturbed
  config = (workdir / "config.json").read_text()
  assert road.servers.url("teacher") in config
  assert road.servers.key not in config + said


def test_every_step_trains_on_what_the_weights_before_it_said(undisturbed):
  workdir, _ = undisturbed
  for episode in episodes(workdir):
    # Steps 1, 2, ... are sampled with the weights after SFT, after step 1, ...
    for teaching in episode["teachings"]:
      assert teaching["weight_version"] == SFT_STEPS + episode["step"] - 1
  steps = [x for x in numbers(workdir) if in_grpo(x)]
  for step in steps:
    # On-policy, so the trainer's log-probs are the sampler's but for rounding.
    assert step["1_grpo/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert 0 <= step["1_grpo/mismatch_max"] < 1e-3
    assert step["1_grpo/logprob_gap"] < 1e-4
  assert sum(x["1_grpo/grad_norm"] > 0 for x in steps) >= 2


def test_every_number_is_explained(undisturbed, repo_root):
  workdir, _ = undisturbed
  text = (repo_root / "atlas_jax" / "training" / "README.md").read_text()
  lines = list(metrics.lines(workdir / "metrics.jsonl"))
  names = {k for x in lines for k in x if k.startswith(("0_sft/", "1_grpo/"))}
  assert len(names) > 30
  lost = [n for n in sorted(names) if f"`{n.split('/')[1]}`" not in text]
  assert not lost, f"say in atlas_jax/training/README.md what these are: {lost}"


def test_the_export_is_the_last_published_model(undisturbed):
  workdir, _ = undisturbed
  version = SFT_STEPS + tiny_road.STEPS
  manifest = workdir / "weights" / f"weights-{version:08d}.json"
  sums = json.loads(manifest.read_text())["checksums"]
  config, model = hf.load(workdir / "export", jnp.float32)
  for name, tensor in exported(model, config, jnp.float32).items():
    assert checksum(np.asarray(tensor)) == sums[name]


def test_the_export_launcher_writes_the_same_model(undisturbed, tmp_path):
  workdir, _ = undisturbed
  out = tmp_path / "model"
  done = forked.run(
    "launchers.export",
    *(f"--workdir={workdir}", f"--output={out}", "--dtype=float32"),
  )
  assert done.returncode == 0, done.stderr
  for name in ("model.safetensors", "config.json", "tokenizer.json"):
    assert (out / name).read_bytes() == (workdir / "export" / name).read_bytes()


def test_the_same_command_again_changes_nothing(road, undisturbed):
  workdir, _ = undisturbed
  before = numbers(workdir), episodes(workdir)
  report = (workdir / "report" / "2_evaluate.json").read_bytes()
  road.finish(workdir)
  assert (numbers(workdir), episodes(workdir)) == before
  assert (workdir / "report" / "2_evaluate.json").read_bytes() == report


def test_another_config_is_refused_with_the_difference(road, undisturbed):
  workdir, _ = undisturbed
  process = road.start(workdir, "--config.grpo.group_size=2")
  assert process.wait(120) == 1
  said = log_of(workdir)
  assert "written by another config" in said
  assert "-grpo.group_size: 4\n+grpo.group_size: 2" in said
