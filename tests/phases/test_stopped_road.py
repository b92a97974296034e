"""SIGTERM to a whole run with real servers: saved, ended, gone on with."""

import signal
import time

import pytest

from atlas_jax.serving.supervisor import descendants
from tests.phases.conftest import episodes, numbers
from tests.phases.test_road import PLACES, log_of, wait_for
from tests.serving.test_supervisor import running

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def stop_when(condition, process):
  wait_for(condition, process)
  servers = descendants(process.pid)
  assert servers
  process.send_signal(signal.SIGTERM)
  assert process.wait(120) == 143
  end = time.monotonic() + 15
  while any(map(running, servers)) and time.monotonic() < end:
    time.sleep(0.1)
  assert not [pid for pid in servers if running(pid)]


def test_a_run_that_is_preempted_saves_and_goes_on_exactly(
  road, undisturbed, tmp_path
):
  workdir, before = tmp_path / "run", 0
  for reached in (
    # Servers that are starting are ended too.
    lambda _: (workdir / "logs" / "teacher.log").exists(),
    lambda _: PLACES["training"](workdir),
    # Of step 4: the weights after step 3, which was saved, are published.
    lambda said: "mean |trainer - server|" in said,
  ):
    process = road.start(workdir)
    stop_when(lambda: reached(log_of(workdir)[before:]), process)  # noqa: B023
    before = len(log_of(workdir))
  said = road.finish(workdir)
  assert said.count("error: stopped by SIGTERM") == 3
  assert said.count("1_grpo continues from step 3 of 4") == 2
  assert "Traceback" not in said, log_of(workdir)[-4000:]
  expected, _ = undisturbed
  # The step that a signal found publishing is told of without its numbers.
  published = ("1_grpo/logprob_gap", "1_grpo/publish_bytes")
  for ours, one in zip(numbers(workdir), numbers(expected), strict=True):
    for name in published:
      if name not in ours:
        one.pop(name, None)
    assert ours == one
  assert episodes(workdir) == episodes(expected)
