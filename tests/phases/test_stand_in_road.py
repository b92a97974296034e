"""GRPO and evaluation over HTTP, in seconds: stopped, and gone on exactly."""

import json

import pytest

from atlas_jax import config as config_lib
from atlas_jax import phases
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.phases.servers import DisagreementError, Servers
from atlas_jax.stopping import Stopped
from tests.phases import small_sft
from tests.phases.stand_in_servers import serve

CHANGES = {
  "phases": ("sft", "grpo", "evaluate", "export"),
  "sft.steps": 2,
  "grpo.steps": 4,
  "grpo.checkpoint_every": 10,
  "grpo.problems_per_step": 2,
  "grpo.group_size": 3,
  "grpo.refill_rounds": 1,
  "grpo.row_length": 512,
  "episode.max_teaching_tokens": 24,
  "episode.max_solution_tokens": 8,
  "episode.max_probe_tokens": 8,
  # No answer is right: lengths make the rewards differ.
  "reward.length_cost": 0.5,
  "evaluate.problems": 3,
  "evaluate.constant_teachings": ("Carry the one.",),
  "evaluate.bootstrap_resamples": 100,
  "serving.max_logprob_gap": 1e9,
}
CLOCKS = ("seconds", "_per_second", "time", "_gb", "programs_compiled")


def run(model, workdir, **changes):
  """(numbers, episodes, versions that the teacher server was sent)."""
  encode = ChatTokenizer.from_dir(model).encode
  with (
    serve(True, encode) as (teacher, state),
    serve(False, encode) as (student, _),
  ):
    urls = {"serving.teacher.url": teacher, "serving.student.url": student}
    given = {**CHANGES, **urls, "student.path": str(model)}
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    config: config_lib.RunConfig = small_sft.config(
      model, {**small_sft.CHANGES, **given, **changes}
    )
    phases.run_phases(config, workdir)
    sent = [int(version) for version in state["updates"]]
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  numbers = [
    {k: v for k, v in json.loads(x).items() if not k.endswith(CLOCKS)}
    for x in lines
  ]
  text = (workdir / "episodes" / "1_grpo.jsonl").read_text()
  episodes = [json.loads(x) for x in text.splitlines()]
  for episode in episodes:
    episode.pop("seconds")
  return numbers, episodes, sent


def grpo_steps(numbers):
  return [x["step"] for x in numbers if x["phase"] == "1_grpo"]


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_that_is_stopped_goes_on_exactly(
  model, tmp_path, monkeypatch, staleness
):
  ahead = {"grpo__max_staleness": staleness}
  whole = run(model, tmp_path / "whole", **ahead)
  numbers, episodes, sent = whole
  assert grpo_steps(numbers) == [1, 2, 3, 4]
  assert any(x.get("1_grpo/trained_tokens", 0) > 0 for x in numbers)
  # SFT made 2 updates; each step of GRPO is published.
  assert sent == [2, 3, 4, 5, 6]
  versions = {
    x["step"]: {t["weight_version"] for t in x["teachings"]} for x in episodes
  }
  assert versions[1] == {2} and versions[4] == {5 - staleness}
  assert (tmp_path / "whole" / "report" / "2_evaluate.json").exists()

  call, calls = Servers.call, []

  def stop(self, work):
    calls.append(work)
    if len(calls) == 3:
      raise Stopped(15)
    return call(self, work)

  with monkeypatch.context() as patch:
    patch.setattr(Servers, "call", stop)
    with pytest.raises(Stopped):
      run(model, tmp_path / "cut", **ahead)
  folder = tmp_path / "cut" / "checkpoints" / "1_grpo"
  assert [p.name for p in folder.iterdir()] == ["2"]
  again = run(model, tmp_path / "cut", **ahead)
  assert again[:2] == whole[:2]
  assert again[2] == [4, 5, 6]


@pytest.mark.slow
def test_a_server_with_other_weights_ends_the_run(model, tmp_path):
  with pytest.raises(DisagreementError, match="weights 2"):
    run(model, tmp_path / "run", serving__max_logprob_gap=0.1)
