"""Accumulation, the three writers, and the live line."""

import json
import math
import subprocess
import sys
import types

import pytest

from atlas_jax import metrics
from atlas_jax.config_tree import ConfigError


def test_unequal_parts_add_up_to_the_mean_of_all():
  parts = [
    types.SimpleNamespace(sums={"loss": (6, 3)}, maxima={"gap": 0.5}),
    types.SimpleNamespace(sums={"loss": (10, 1)}, maxima={"gap": 0.25}),
    types.SimpleNamespace(sums={"loss": (4, 1), "none": (0, 0)}, maxima={}),
  ]
  assert metrics.means(parts) == {"loss": 4.0, "gap": 0.5}
  assert metrics.means([]) == {}


def _write(tmp_path, steps, resume_step=0, phase="grpo", **kw):
  writer = metrics.Writer(tmp_path, phase, resume_step=resume_step, **kw)
  for step in steps:
    writer.write(step, {"loss": step / 2})
  writer.close()


def test_a_line_is_a_json_object(tmp_path):
  writer = metrics.Writer(tmp_path, "sft", resume_step=0)
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
  lines = list(metrics.lines(path))
  assert [x["step"] for x in lines if x["phase"] == "sft"] == [*range(1, 9)]
  assert [x["step"] for x in lines if x["phase"] == "grpo"] == [*range(1, 7)]
  assert path.read_text().endswith("}\n")


def test_a_line_that_is_none_of_ours_is_left_out(tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  good = '{"phase": "0_grpo", "step": 1}\n'
  path.write_text(good + '[1]\n{"step": 2}\n"text"\n')
  metrics.drop_beyond(path, "0_grpo", 1)
  assert path.read_text() == good
  assert caplog.text.count("dropped a broken line") == 3


def test_what_a_model_says_is_read_again_whatever_it_is(tmp_path, caplog):
  said = {"text": "a\0b \N{BOM}\u2028 \ud800"}
  path = tmp_path / "episodes.jsonl"
  path.write_text(json.dumps(said) + "\n")
  assert list(metrics.lines(path)) == [said] and not caplog.text


def test_a_fresh_start_drops_what_was_there_of_the_phase(tmp_path):
  _write(tmp_path, [1, 2])
  _write(tmp_path, [1])
  lines = list(metrics.lines(tmp_path / "metrics.jsonl"))
  assert [x["step"] for x in lines] == [1]


def test_tensorboard_brings_no_torch(repo_root):
  script = (
    "import sys; from atlas_jax import metrics; metrics.summary_writer();"
    "print([m in sys.modules for m in ('torch', 'tensorboardX')])"
  )
  done = subprocess.run(
    [sys.executable, "-c", script], cwd=repo_root, capture_output=True
  )
  assert done.stdout.decode().split() == ["[False,", "True]"], done.stderr


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
  assert calls[0]["id"].endswith("-grpo")
  assert calls[1:] == [(2, {"grpo/loss": 1.0}), "finish"]
  monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
  match = r"wandb_project.*pip install -e '\.\[wandb\]'"
  with pytest.raises(ConfigError, match=match) as error:
    _write(tmp_path, [3], resume_step=2, wandb_project="teachers")
  assert "\n" not in str(error.value)


class Wandb(types.ModuleType):
  """Records the calls of a run; `error` is what init raises."""

  def __init__(self):
    super().__init__("wandb")
    self.inits, self.error = [], None

  def init(self, **kw):
    if self.error is not None:
      raise self.error
    self.inits.append(kw)
    return types.SimpleNamespace(
      log=lambda values, step: None, finish=lambda: None
    )


def test_one_id_a_run_directory_whatever_it_is_called(tmp_path, monkeypatch):
  wandb = Wandb()
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  runs = [tmp_path / seed / "teacher" for seed in ("s0", "s1")]
  for run in (*runs, runs[0]):
    for phase in ("0_sft", "1_grpo"):
      _write(run, [1], phase=phase, wandb_project="p", config={"seed": 1})
  ids = [kw["id"] for kw in wandb.inits]
  assert len(set(ids)) == 4 and ids[4:] == ids[:2]  # a resumed one goes on
  assert all(kw["config"] == {"seed": 1} for kw in wandb.inits)
  assert [kw["name"] for kw in wandb.inits[:2]] == [
    *("teacher-0_sft", "teacher-1_grpo"),
  ]
  # It is the directory's, not its name's.
  runs[0].rename(tmp_path / "moved")
  _write(tmp_path / "moved", [2], phase="0_sft", wandb_project="p")
  assert wandb.inits[-1]["id"] == ids[0]


def test_wandb_is_told_no_secret(tmp_path, monkeypatch):
  wandb = Wandb()
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  config = {"data": {"params": {"api_key": "k1", "size": 3}}, "max_tokens": 4}
  _write(tmp_path, [1], wandb_project="p", config=config)
  assert wandb.inits[0]["config"] == {
    "data": {"params": {"size": 3}},
    "max_tokens": 4,
  }


def test_what_wandb_refuses_is_one_line(tmp_path, monkeypatch):
  wandb = Wandb()
  wandb.error = RuntimeError("api_key not configured\n  call wandb.login()")
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  with pytest.raises(ConfigError) as error:
    _write(tmp_path, [1], wandb_project="p")
  assert str(error.value) == (
    "Weights & Biases: api_key not configured call wandb.login()"
  )


@pytest.mark.parametrize("call", ["log", "finish"])
def test_a_run_goes_on_without_a_wandb_that_fails(
  tmp_path, monkeypatch, caplog, call
):
  def fail(*_, **__):
    raise ConnectionError("the service\nis gone")

  calls = {"log": lambda *_, **__: None, "finish": lambda: None, call: fail}
  wandb = Wandb()
  wandb.init = lambda **_: types.SimpleNamespace(**calls)
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  _write(tmp_path, [1, 2], wandb_project="p")
  assert len(list(metrics.lines(tmp_path / "metrics.jsonl"))) == 2
  assert [r.getMessage() for r in caplog.records] == [
    "nothing more is logged to Weights & Biases: the service is gone"
  ]


def test_wandb_itself_offline(tmp_path, monkeypatch):
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_DIR", str(tmp_path / "out"))
  (tmp_path / "out").mkdir()
  for resume_step in (0, 1):
    _write(
      tmp_path / "run",
      [resume_step + 1],
      resume_step=resume_step,
      wandb_project="p",
      config={"seed": 1},
    )
  kept = (tmp_path / "run" / "run_id").read_text()
  found = list((tmp_path / "out").rglob(f"*{kept}-grpo*.wandb"))
  assert len(found) == 2
