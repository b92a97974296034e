"""GRPO and evaluation over HTTP, in seconds: stopped, and gone on exactly."""

import pytest

from atlas_jax.phases.servers import DisagreementError, Servers
from atlas_jax.stopping import Stopped
from tests.phases.stand_in_run import run


def grpo_steps(numbers):
  return [x["step"] for x in numbers if x["phase"] == "1_grpo"]


LORA = {"teacher__lora__rank": 2, "grpo__beta": 0.1}
MASTERS = {
  "teacher__offload": "masters",
  "teacher__compute_dtype": "bfloat16",
}


@pytest.mark.slow
@pytest.mark.parametrize("staleness, memory", [(1, MASTERS), (0, LORA)])
def test_a_run_that_is_stopped_goes_on_exactly(
  model, tmp_path, monkeypatch, staleness, memory
):
  ahead = {"grpo__max_staleness": staleness, **memory}
  whole = run(model, tmp_path / "whole", **ahead)
  numbers, episodes, state = whole
  assert grpo_steps(numbers) == [1, 2, 3, 4]
  assert any(x.get("1_grpo/trained_tokens", 0) > 0 for x in numbers)
  exported = {p.name for p in (tmp_path / "whole").glob("export*")}
  assert exported == {"export", *(["export-adapter"] if memory is LORA else [])}
  # The validation problems: every third step, and the last.
  looked = [x["step"] for x in numbers if "1_grpo/validation_taught_high" in x]
  assert looked == [3, 4]
  # SFT made 2 updates; each step of GRPO is published.
  assert state["updates"] == [2, 3, 4, 5, 6]
  versions = {
    x["step"]: {t["weight_version"] for t in x["teachings"]} for x in episodes
  }
  assert versions[1] == {2} and versions[4] == {5 - staleness}
  assert (tmp_path / "whole" / "report" / "2_evaluate.json").exists()

  call, calls = Servers.call, []

  def stop(self, work, hold=False):
    calls.append(work)
    if len(calls) == 3:
      raise Stopped(15)
    return call(self, work, hold)

  with monkeypatch.context() as patch:
    patch.setattr(Servers, "call", stop)
    with pytest.raises(Stopped):
      run(model, tmp_path / "cut", **ahead)
  folder = tmp_path / "cut" / "checkpoints" / "1_grpo"
  assert [p.name for p in folder.iterdir()] == ["2"]
  again = run(model, tmp_path / "cut", **ahead)
  assert again[:2] == whole[:2]
  assert again[2]["updates"] == [4, 5, 6]


@pytest.mark.slow
def test_a_server_with_other_weights_ends_the_run(model, tmp_path):
  with pytest.raises(DisagreementError, match="weights 2"):
    run(model, tmp_path / "run", serving__max_logprob_gap=0.1)
