"""Accumulation, the three writers, and the live line."""

import io
import json
import math
import sys
import types

import pytest

from atlas_jax import metrics


def test_unequal_parts_add_up_to_the_mean_of_all():
  acc = metrics.Accumulator()
  acc.add("loss", 6.0, 3)  # 1, 2, 3
  acc.add("loss", 10.0, 1)
  acc.add("nothing", 0.0, 0)
  acc.maximum("gap", 0.5)
  acc.maximum("gap", 0.25)
  step = types.SimpleNamespace(sums={"loss": (4, 1)}, maxima={"gap": 2})
  acc.update(step)
  assert acc.result() == {"loss": 4.0, "gap": 2.0}


def _write(tmp_path, steps, resume_step=0, phase="grpo", **kw):
  writer = metrics.Writer(
    tmp_path, phase, resume_step=resume_step, tensorboard=False, **kw
  )
  for step in steps:
    writer.write(step, {"loss": step / 2})
  writer.close()


def test_a_line_is_a_json_object(tmp_path):
  writer = metrics.Writer(tmp_path, "sft", resume_step=0, tensorboard=False)
  writer.write(3, {"loss": 0.5, "grad_norm": math.nan})
  # Complete on disk before close: a kill loses nothing.
  (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
  writer.close()
  value = json.loads(line, parse_constant=lambda c: pytest.fail(c))
  assert value.pop("time") > 1.7e9
  assert value == {
    "phase": "sft",
    "step": 3,
    "sft/loss": 0.5,
    "sft/grad_norm": None,
  }


def test_resume_doubles_nothing_and_keeps_other_phases(tmp_path):
  _write(tmp_path, range(1, 9), phase="sft")
  _write(tmp_path, range(1, 6))
  path = tmp_path / "metrics.jsonl"
  with open(path, "a") as f:
    f.write('{"phase": "grpo", "step": 6, "grpo/lo')  # killed here
  _write(tmp_path, range(4, 7), resume_step=3)
  lines = metrics.read_jsonl(path)
  assert [x["step"] for x in lines if x["phase"] == "sft"] == [*range(1, 9)]
  assert [x["step"] for x in lines if x["phase"] == "grpo"] == [*range(1, 7)]
  assert path.read_text().endswith("}\n")


def test_a_fresh_start_drops_what_was_there_of_the_phase(tmp_path):
  _write(tmp_path, [1, 2])
  _write(tmp_path, [1])
  lines = metrics.read_jsonl(tmp_path / "metrics.jsonl")
  assert [x["step"] for x in lines] == [1]


def test_tensorboard_holds_the_scalars(tmp_path):
  writer = metrics.Writer(tmp_path, "grpo", resume_step=0)
  writer.write(1, {"reward_mean": 0.25})
  writer.write(2, {"reward_mean": 0.75})
  writer.close()
  (events,) = (tmp_path / "tensorboard" / "grpo").glob("events.*")
  from tensorboardX.proto.event_pb2 import Event

  found, data, at = {}, events.read_bytes(), 0
  while at < len(data):  # TFRecord: length u64, crc u32, data, crc u32
    n = int.from_bytes(data[at : at + 8], "little")
    event = Event.FromString(data[at + 12 : at + 12 + n])
    for value in event.summary.value:
      found[event.step, value.tag] = value.simple_value
    at += 16 + n
  assert found == {
    (1, "grpo/reward_mean"): 0.25,
    (2, "grpo/reward_mean"): 0.75,
  }


def test_wandb_only_when_asked(tmp_path, monkeypatch):
  calls = []
  run = types.SimpleNamespace(
    log=lambda values, step: calls.append((step, values)),
    finish=lambda: calls.append("finish"),
  )
  fake = types.SimpleNamespace(
    init=lambda **kw: calls.append(kw) or run,
  )
  monkeypatch.setitem(sys.modules, "wandb", fake)
  _write(tmp_path, [1])
  assert not calls
  _write(tmp_path, [2], resume_step=1, wandb_project="teachers")
  assert calls[0]["project"] == "teachers"
  assert calls[0]["resume"] == "allow"
  assert calls[1:] == [(2, {"grpo/loss": 1.0}), "finish"]
  monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
  with pytest.raises(ValueError, match=r"pip install -e '\.\[wandb\]'"):
    _write(tmp_path, [3], resume_step=2, wandb_project="teachers")


def test_plain_progress_when_not_a_terminal():
  stream = io.StringIO()
  progress = metrics.Progress(
    "grpo", start=2, total=5, every_s=1000, stream=stream
  )
  progress.update(3, {"reward": 0.5, "alone": 0.25})
  progress.update(4, {"reward": 0.6})  # too soon for another line
  progress.update(5, {"reward": 0.75})  # the last is always shown
  progress.close()
  first, last = stream.getvalue().splitlines()
  assert first.startswith("grpo 3/5  reward 0.5  alone 0.25  ETA 0:00:0")
  assert last.startswith("grpo 5/5  reward 0.75")


def test_eta_counts_the_steps_of_this_process_only():
  progress = metrics.Progress("sft", start=10, total=30, stream=io.StringIO())
  began = progress._began
  # 5 steps took 100 s: the 15 that are left take 300 s.
  assert progress.line(15, {}, began + 100).endswith("ETA 0:05:00")
  assert "ETA" not in progress.line(10, {}, began + 1)


def test_live_line_on_a_terminal():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  stream = Terminal()
  progress = metrics.Progress("sft", start=0, total=2, stream=stream)
  progress.update(1, {"loss": 1.5})
  progress.close()
  assert "sft 1/2  loss 1.5" in stream.getvalue()
