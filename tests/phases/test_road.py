"""SFT, GRPO, evaluation and export with real servers, disturbed and not."""

import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax import metrics
from atlas_jax.model import hf
from atlas_jax.serving import weight_files
from atlas_jax.serving.supervisor import descendants
from tests.phases import tiny_road
from tests.phases.conftest import episodes, numbers
from tests.serving.test_supervisor import running

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SFT_STEPS = tiny_road.CHANGES["sft.steps"]


def wait_for(condition, process, seconds=300):
  end = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, f"ended with {process.returncode}"
    assert time.monotonic() < end, "it never came to that"
    time.sleep(0.005)


def log_of(workdir):
  return pathlib.Path(f"{workdir}.log").read_text(errors="replace")


def in_grpo(line):
  return line["phase"] == "1_grpo"


def grpo_steps(workdir):
  """Steps of GRPO that metrics.jsonl knows."""
  if not (workdir / "metrics.jsonl").exists():
    return []
  return [x["step"] for x in numbers(workdir) if in_grpo(x)]


def step_of_episodes(workdir):
  """The last step whose episodes are written."""
  path = workdir / "episodes" / "1_grpo.jsonl"
  if not path.exists() or not path.read_text().endswith("\n"):
    return 0
  return json.loads(path.read_text().splitlines()[-1])["step"]


def test_a_run_leaves_what_the_readme_says(undisturbed):
  workdir, said = undisturbed
  for name in (
    "config.json",
    "checkpoints/0_sft",
    "checkpoints/1_grpo",
    "tensorboard",
    "logs/teacher.log",
    "logs/student.log",
    "report/2_evaluate.md",
    "report/2_evaluate.json",
    "report/alone_versus_taught.png",
    "report/learning_curve.png",
    "export/model.safetensors",
    "export/tokenizer.json",
  ):
    assert (workdir / name).exists(), name
  assert "student alone" in said and "teacher after grpo" in said
  assert f"report: {workdir}/report" in said
  assert grpo_steps(workdir) == list(range(1, tiny_road.STEPS + 1))
  of_step = collections.Counter(e["step"] for e in episodes(workdir))
  for line in filter(in_grpo, numbers(workdir)):
    assert of_step[line["step"]] == 4 + line["1_grpo/refilled_groups"]


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
  lines = metrics.read_jsonl(workdir / "metrics.jsonl")
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
  for name, tensor in hf.export_tensors(model, config, jnp.float32).items():
    assert weight_files.checksum(np.asarray(tensor)) == sums[name]


def test_the_export_launcher_writes_the_same_model(road, undisturbed, tmp_path):
  workdir, _ = undisturbed
  out = tmp_path / "model"
  subprocess.run(
    [
      *(sys.executable, "-m", "launchers.export", f"--workdir={workdir}"),
      *(f"--output={out}", "--dtype=float32"),
    ],
    cwd=road.root,
    check=True,
  )
  for name in ("model.safetensors", "config.json", "tokenizer.json"):
    assert (out / name).read_bytes() == (workdir / "export" / name).read_bytes()


def test_a_run_on_servers_that_are_given_as_urls(road, undisturbed, tmp_path):
  workdir = tmp_path / "run"
  flags = road.command(workdir)[3:]
  with open(tmp_path / "serve.log", "wb") as out:
    serve = subprocess.Popen(
      # A shell's background jobs, and all below them, ignore SIGINT.
      [
        *("env", "--default-signal=INT"),
        *(sys.executable, "-m", "launchers.serve", *flags),
      ],
      cwd=road.root,
      stdout=out,
      stderr=subprocess.STDOUT,
    )

  def said():
    return (tmp_path / "serve.log").read_text()

  try:
    wait_for(lambda: "config.serving.student.url=" in said(), serve)
    key = re.search(r"export (ATLAS_SERVER_KEY)=(\S+)", said())
    urls = re.findall(r"--config\.serving\.\w+\.url=\S+", said())
    done = subprocess.run(
      road.command(workdir, *urls),
      cwd=road.root,
      env={**os.environ, key[1]: key[2]},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert serve.poll() is None
  finally:
    serve.send_signal(signal.SIGINT)
    assert serve.wait(60) == 0
  expected, _ = undisturbed
  assert numbers(workdir) == numbers(expected)
  assert key[2] not in (workdir / "config.json").read_text()


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
  assert '-    "group_size": 4,' in said and '+    "group_size": 2,' in said


def kill_when(condition, process, workdir):
  """Kills a run with -9; its servers must follow by themselves."""
  wait_for(condition, process)
  servers = descendants(process.pid)
  process.send_signal(signal.SIGKILL)
  process.wait(10)
  end = time.monotonic() + 15
  while any(running(pid) for pid in servers) and time.monotonic() < end:
    time.sleep(0.1)
  assert [pid for pid in servers if running(pid)] == []
  assert not (workdir / "report").exists()


# In the order of a run. The last checkpoint before any is that of step 2.
PLACES = {
  # of step 3: its episodes are written, its update is not logged
  "training": lambda workdir: step_of_episodes(workdir) == 3,
  # after step 3: the file is there, the server may or may not have it
  "publishing": lambda workdir: any(
    (workdir / "weights").glob(f"*{SFT_STEPS + 3:08d}*")
  ),
  # of step 4: step 3 is done
  "sampling": lambda workdir: grpo_steps(workdir)[-1:] == [3],
}


def test_a_run_killed_at_three_places_resumes_exactly(
  road, undisturbed, tmp_path
):
  workdir = tmp_path / "run"
  for reached in PLACES.values():
    process = road.start(workdir)
    kill_when(lambda reached=reached: reached(workdir), process, workdir)
  said = road.finish(workdir)
  assert said.count("1_grpo continues from step 2 of 4") == len(PLACES)
  expected, _ = undisturbed
  assert numbers(workdir) == numbers(expected)
  assert episodes(workdir) == episodes(expected)


def test_a_run_that_samples_ahead_resumes_exactly_too(road, tmp_path):
  flag = "--config.grpo.max_staleness=1"
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  road.finish(whole, flag)
  ages = [x["1_grpo/staleness_mean"] for x in numbers(whole) if in_grpo(x)]
  assert ages == [0, 1, 1, 1]
  process = road.start(killed, flag)
  kill_when(lambda: PLACES["sampling"](killed), process, killed)
  road.finish(killed, flag)
  assert numbers(killed) == numbers(whole)
  assert episodes(killed) == episodes(whole)


def server_of(process, role):
  """The pid of a server's API process among those below a run."""
  for pid in descendants(process.pid):
    try:
      words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
      continue
    if "vllm.entrypoints.openai.api_server" in words and role in words:
      return pid
  raise AssertionError(f"no {role} server below {process.pid}")


def test_servers_that_die_mid_step_are_started_again(
  road, undisturbed, tmp_path
):
  workdir = tmp_path / "run"
  process = road.start(workdir)
  wait_for(lambda: step_of_episodes(workdir) >= 1, process)
  os.kill(server_of(process, "teacher"), signal.SIGKILL)
  wait_for(lambda: grpo_steps(workdir)[-1:] == [2], process)
  os.kill(server_of(process, "student"), signal.SIGKILL)
  assert process.wait(600) == 0, log_of(workdir)[-6000:]
  said = log_of(workdir)
  assert "restart 2 of at most 3" in said
  # Nothing is lost and nothing counted twice.
  expected, _ = undisturbed
  assert numbers(workdir) == numbers(expected)
  assert episodes(workdir) == episodes(expected)
