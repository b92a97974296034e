"""Validation problems while GRPO trains, and the weights that were best."""

import logging
import shutil

import pytest
from safetensors.numpy import load_file

from atlas_jax.config import ConfigError
from atlas_jax.data.problems import DataError
from atlas_jax.phases.export import export_run
from atlas_jax.phases.servers import Servers
from atlas_jax.stopping import Stopped
from tests.phases import small_sft
from tests.phases.stand_in_run import run
from tests.serving.checksum_oracle import checksum

# A share that follows from the words alone, and so from the weights.
JUDGE = """
import hashlib


def judge(question, gold, response):
  return hashlib.sha256(response.encode()).digest()[0] / 255
"""
STEPS = 4


def accuracies(numbers):
  """step -> accuracy on the validation problems, where it was measured."""
  name = "1_grpo/validation_accuracy_taught"
  return {x["step"]: x[name] for x in numbers if name in x}


@pytest.fixture
def judged(model, tmp_path):
  judge = tmp_path / "mine.py"
  judge.write_text(JUDGE)

  def make(workdir, **changes):
    given = {
      "grpo__steps": STEPS,
      "grpo__checkpoint_every": 1,
      "grpo__evaluate_every": 1,
      "grpo__evaluate_problems": 4,
      "grpo__keep_best": True,
      "keep_checkpoints": 1,
      "data__verifier": f"{judge}:judge",
      "data__own_processes": 1,
    }
    return run(model, workdir, **given, **changes)

  return make


@pytest.mark.slow
def test_the_best_weights_are_kept_over_a_stop_evaluated_and_exported(
  judged, tmp_path, monkeypatch, caplog
):
  workdir, states = tmp_path / "run", []
  call, calls = Servers.call, []

  def stop(self, work, hold=False):
    if not hold:  # it samples
      calls.append(work)
      if len(calls) == STEPS:
        raise Stopped(15)
    return call(self, work, hold)

  with monkeypatch.context() as patch:
    patch.setattr(Servers, "call", stop)
    with pytest.raises(Stopped):
      judged(workdir, states=states)
  with caplog.at_level(logging.INFO, "atlas_jax.phases.grpo"):
    numbers, _, state = judged(workdir)
  found = accuracies(numbers)
  assert [*found] == [1, 2, 3, 4] and len({*found.values()}) == STEPS
  best = max(found, key=found.get)
  assert best < STEPS - 1, "choose another judge: the best must be an old one"
  assert f"the weights after step {best}, the best, are kept" in caplog.text
  alone = [x.get("1_grpo/validation_accuracy_alone") for x in numbers]
  assert len({*alone} - {None}) == 1
  # SFT made 2 updates. The best have a version of their own, behind the last.
  assert states[0]["updates"] == [2, 3, 4, 5] and state["updates"] == [5, 6, 7]
  sums = states[0]["sums"] | state["sums"]
  assert sums[7] == sums[2 + best] != sums[6]
  # What was evaluated is exported, now and by launchers.export.
  folder = workdir / "checkpoints" / "1_grpo"
  assert {p.name for p in folder.iterdir()} == {str(best), str(STEPS)}
  export_run(workdir, tmp_path / "again", "float32")
  for path in (workdir / "export", tmp_path / "again"):
    tensors = load_file(path / "model.safetensors")
    exported = {k: checksum(v) for k, v in tensors.items()}
    assert exported == sums[7]
  # It is so too when there is nothing left to train.
  shutil.rmtree(workdir / "report")
  assert judged(workdir)[2]["sums"] == {7: sums[7]}


@pytest.mark.parametrize(
  ("grpo", "says"),
  [
    ({"keep_best": True}, "evaluate_every=None must be a multiple"),
    (
      {"keep_best": True, "evaluate_every": 15},
      "evaluate_every=15 must be a multiple of checkpoint_every=10",
    ),
  ],
)
def test_the_best_must_be_a_checkpoint(model, grpo, says):
  with pytest.raises(
    ConfigError, match=rf"config\.grpo\.keep_best=True.*{says}"
  ):
    small_sft.config(model, {f"grpo.{k}": v for k, v in grpo.items()})


@pytest.mark.slow
def test_a_validation_split_without_a_problem_is_refused(model, tmp_path):
  changes = {"phases": ("grpo",), "data__split_fractions": (0.9, 0.0, 0.1)}
  with pytest.raises(DataError, match="the validation split of"):
    small_sft.run(
      model,
      tmp_path / "run",
      grpo__evaluate_every=1,
      student__path=str(model),
      **changes,
    )
  assert not (tmp_path / "run" / "config.json").exists()
