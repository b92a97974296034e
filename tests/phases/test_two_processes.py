"""The whole road on two processes, also when a server fails the lead."""

import socket

import pytest

from tests.phases import tiny_road
from tests.phases.relay import Relay
from tests.phases.road import (
  SFT_STEPS,
  episodes,
  grpo_steps,
  in_grpo,
  log_of,
  numbers,
  wait_for,
)

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def start_both(road, workdir, *flags):
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  return [
    road.start(
      workdir,
      *(f"--coordinator=127.0.0.1:{port}", "--num_processes=2"),
      *(f"--process_id={rank}", *flags),
    )
    for rank in (0, 1)
  ]


def test_a_failure_of_the_lead_ends_both_and_both_resume(
  road, undisturbed, tmp_path
):
  workdir = tmp_path / "run"
  with Relay(road.servers.url("teacher")) as relay:
    both = start_both(
      road,
      workdir,
      f"--config.serving.teacher.url={relay.url}",
      "--config.serving.restarts=0",
    )
    checkpoint = workdir / "checkpoints" / "1_grpo" / "2"
    wait_for(checkpoint.exists, both[0])
    relay.close()
    assert [p.wait(180) for p in both] == [1, 1], log_of(workdir)[-4000:]
  assert log_of(workdir).count("\nerror: ") == 2  # one line of each
  assert grpo_steps(workdir)[-1] < tiny_road.STEPS

  both = start_both(road, workdir)
  assert [p.wait(600) for p in both] == [0, 0], log_of(workdir)[-6000:]
  assert "1_grpo continues from step 2 of 4" in log_of(workdir)
  expected, _ = undisturbed
  assert grpo_steps(workdir) == list(range(1, tiny_road.STEPS + 1))
  for ours, one in zip(numbers(workdir), numbers(expected), strict=True):
    assert ours.keys() == one.keys()
    if in_grpo(ours):
      # Two devices add in another order than one: texts may part, later.
      assert ours["1_grpo/ratio_mean"] == pytest.approx(1, abs=1e-6)
      assert ours["1_grpo/logprob_gap"] < 1e-4
      # The lead looked at the validation problems; all know what it found.
      looked = "1_grpo/validation_accuracy_taught" in ours
      assert looked == (ours["step"] in (2, 4))
    elif "0_sft/loss" in ours:
      assert ours["0_sft/loss"] == pytest.approx(one["0_sft/loss"], rel=1e-3)
  for episode in episodes(workdir):
    for teaching in episode["teachings"]:
      assert teaching["weight_version"] == SFT_STEPS + episode["step"] - 1
  assert (workdir / "report" / "2_evaluate.json").exists()
  # Each has written its file.
  names = {p.name for p in (workdir / "export").glob("model*")}
  assert names == {
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
  }
