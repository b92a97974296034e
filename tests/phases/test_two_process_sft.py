"""Two processes that are preempted, and whose newest checkpoint is damaged.

They go on with another mesh, and one process with the last.
"""

import shutil
import signal
import socket
import subprocess
import time

import pytest
from safetensors.numpy import load_file

from tests import forked
from tests.phases import small_sft
from tests.phases.damages import biggest, flip

pytestmark = pytest.mark.slow
STEPS = 40
LENGTH = {"sft__steps": STEPS, "sft__checkpoint_every": 2}


@pytest.fixture
def start(model, tmp_path):
  def both(data):
    with socket.socket() as s:
      s.bind(("127.0.0.1", 0))
      port = s.getsockname()[1]
    flags = small_sft.flags(
      model,
      tmp_path / "run",
      mesh__fsdp=-1,
      mesh__data=data,
      **LENGTH,
    )
    return [
      forked.Process(
        "launchers.train",
        *flags,
        *(f"--coordinator=127.0.0.1:{port}", "--num_processes=2"),
        f"--process_id={rank}",
        stderr=subprocess.STDOUT,
      )
      for rank in (0, 1)
    ]

  return both


def test_all_stop_at_one_step_and_pass_by_a_damaged_checkpoint(
  start, model, tmp_path
):
  workdir = tmp_path / "run"
  file = workdir / "metrics.jsonl"
  both = start(data=1)
  end = time.monotonic() + 180
  while not (file.exists() and file.read_text().count("\n") > 4):
    assert [p.poll() for p in both] == [None, None]
    assert time.monotonic() < end
    time.sleep(0.02)
  both[1].send_signal(signal.SIGTERM)  # not the lead
  said = [p.communicate(timeout=180)[0] for p in both]
  assert [p.returncode for p in both] == [143, 143], said
  folder = workdir / "checkpoints" / "0_sft"
  steps = sorted(int(p.name) for p in folder.iterdir())
  assert 4 < steps[-1] < STEPS
  flip(biggest(folder / str(steps[-1]) / "model"))

  both = start(data=2)
  said = [p.communicate(timeout=180)[0] for p in both]
  assert [p.returncode for p in both] == [0, 0], said
  for text in said:
    assert f"checkpoint {steps[-1]} in {folder} is damaged" in text
    assert f"0_sft continues from step {steps[-2]} of {STEPS}" in text
    assert "1 of 2 devices (cpu) in this process; mesh data=2, fsdp=1" in text
  told = [line["step"] for line in small_sft.numbers(workdir)]
  assert told == list(range(1, STEPS + 1))
  exported = workdir / "export"
  first = _tensors(exported)
  shutil.rmtree(exported)
  small_sft.run(model, workdir, **LENGTH)  # all that is left
  assert [p.name for p in exported.glob("*.safetensors")] == [
    "model.safetensors"
  ]
  assert first and _tensors(exported) == first


def _tensors(directory):
  files = sorted(directory.glob("*.safetensors"))
  return {n: x.tobytes() for f in files for n, x in load_file(f).items()}
