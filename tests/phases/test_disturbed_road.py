"""Whole runs that are killed or stopped: the end is that of a quiet run."""

import signal

import pytest

from tests import processes
from tests.phases.road import (
  PLACES,
  episodes,
  grpo_steps,
  in_grpo,
  log_of,
  numbers,
  server_of,
  step_of_episodes,
  stop,
  wait_for,
)

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def assert_same(workdir, expected):
  assert numbers(workdir) == numbers(expected)
  assert episodes(workdir) == episodes(expected)


def test_a_run_killed_at_three_places_resumes_exactly(
  road, undisturbed, tmp_path
):
  workdir = tmp_path / "run"
  for reached in PLACES.values():
    process = road.start(workdir)
    wait_for(lambda reached=reached: reached(workdir), process)
    stop(process, signal.SIGKILL, -9)
    assert not (workdir / "report").exists()
  said = road.finish(workdir)
  assert said.count("1_grpo continues from step 2 of 4") == len(PLACES)
  expected, _ = undisturbed
  assert_same(workdir, expected)


def test_a_run_that_samples_ahead_resumes_exactly_too(
  road, undisturbed, tmp_path
):
  # GRPO alone, of the model that the other run warmed up.
  trained = undisturbed[0] / "export"
  flags = ("--config.grpo.max_staleness=1", "--config.phases=('grpo',)")
  flags += (f"--config.teacher.path={trained}",)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  road.finish(whole, *flags)
  steps = [x for x in numbers(whole) if in_grpo(x)]
  assert [x["0_grpo/staleness_mean"] for x in steps] == [0, 1, 1, 1]
  assert all(x["0_grpo/grad_norm"] > 0 for x in steps)
  process = road.start(killed, *flags)
  wait_for(lambda: PLACES["sampling"](killed), process)
  stop(process, signal.SIGKILL, -9)
  road.finish(killed, *flags)
  assert_same(killed, whole)


def test_a_run_that_is_preempted_saves_and_goes_on_exactly(
  road, undisturbed, tmp_path
):
  workdir, before = tmp_path / "run", 0
  for reached in (
    lambda _: PLACES["training"](workdir),
    # Of step 4: the weights after step 3, which was saved, are published.
    lambda said: "mean |trainer - server|" in said,
  ):
    process = road.start(workdir, "--verbosity=1")
    wait_for(lambda: reached(log_of(workdir)[before:]), process)  # noqa: B023
    stop(process, signal.SIGTERM, 143)
    before = len(log_of(workdir))
  said = road.finish(workdir)
  assert said.count("error: stopped by SIGTERM") == 2
  assert said.count("1_grpo continues from step 3 of 4") == 2
  assert "Traceback" not in said, said[-4000:]
  expected, _ = undisturbed
  # The step that a signal found publishing is told of without its numbers.
  published = ["1_grpo/logprob_gap", "1_grpo/publish_bytes"]
  published += [f"1_grpo/{r}_server_0_asked" for r in ("teacher", "student")]
  for ours, one in zip(numbers(workdir), numbers(expected), strict=True):
    for name in published:
      if name not in ours:
        one.pop(name, None)
    assert ours == one
  assert episodes(workdir) == episodes(expected)


def test_servers_of_a_run_are_restarted_and_end_with_it(
  road, undisturbed, tmp_path
):
  """The one run here with servers of its own."""
  workdir = tmp_path / "run"
  log = workdir / "logs" / "teacher.log"
  # By the commands that the product builds; the others are forked.
  process = road.start(workdir, own_servers=True, servers_forked=False)
  wait_for(log.exists, process)
  stop(process, signal.SIGTERM, 143)  # they are starting
  assert "error: stopped by SIGTERM" in log_of(workdir)

  process = road.start(workdir, own_servers=True)
  wait_for(lambda: step_of_episodes(workdir) >= 1, process)
  processes.kill(server_of(process, "teacher"), signal.SIGKILL)
  wait_for(lambda: grpo_steps(workdir)[-1:] == [2], process)
  processes.kill(server_of(process, "student"), signal.SIGKILL)
  wait_for(lambda: PLACES["sampling"](workdir), process)
  assert server_of(process, "teacher") and server_of(process, "student")
  stop(process, signal.SIGKILL, -9)
  said = log_of(workdir)
  assert "restart 2 of at most 3" in said and "Traceback" not in said
  assert (workdir / "logs" / "student.log").exists()

  # Other servers take over; nothing is lost and nothing counted twice.
  said = road.finish(workdir)
  assert "1_grpo continues from step 2 of 4" in said
  expected, _ = undisturbed
  assert_same(workdir, expected)
