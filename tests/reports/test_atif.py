"""Episodes as ATIF, held against what its RFC asks of an object."""

import json

import pytest

from atlas_jax.reports import atif, reading
from tests.reports import run_files

# Version 1.4 of the RFC: (required, optional) keys; others are refused.
ROOT = (
  {"schema_version", "session_id", "agent", "steps"},
  {"notes", "final_metrics", "extra"},
)
STEP = (
  {"step_id", "source", "message"},
  {"timestamp", "observation", "extra"},
)
AGENTS = {"model_name", "reasoning_effort", "reasoning_content", "tool_calls"}
METRICS = {"prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd"}


def check(value, keys, more=frozenset()):
  required, optional = keys
  assert required <= value.keys() <= required | optional | more


def check_trajectory(found):
  check(found, ROOT)
  check(found["agent"], ({"name", "version"}, {"model_name", "extra"}))
  assert found["final_metrics"] == {"total_steps": len(found["steps"])}
  for number, step in enumerate(found["steps"], start=1):
    assert step["step_id"] == number
    assert step["source"] in ("system", "user", "agent")
    is_agent = step["source"] == "agent"
    check(step, STEP, AGENTS | {"metrics"} if is_agent else frozenset())
    assert isinstance(step["message"], str)
    assert step.get("metrics", {}).keys() <= METRICS


@pytest.fixture
def run(tmp_path):
  return reading.read(run_files.write_run(tmp_path / "run"))


def test_every_episode_is_a_trajectory_of_the_format(run, tmp_path):
  atif.write(run, run.attempts, tmp_path / "out")
  files = sorted((tmp_path / "out").iterdir())
  assert [f.name for f in files] == [f"{n:04}.json" for n in range(1, 9)]
  found = [json.loads(file.read_text()) for file in files]
  for one in found:
    check_trajectory(one)
  assert len({one["session_id"] for one in found}) == 8


def test_a_taught_episode_is_plan_teaching_answer(run):
  found = atif.trajectory(run, run.attempts[5])
  problem, plan, teaching, answer = found["steps"]
  assert (problem["source"], problem["message"]) == ("user", "question 1")
  assert (plan["message"], plan["extra"]["role"]) == ("a plan", "student")
  assert teaching["message"] == "carry"
  assert teaching["reasoning_content"].startswith("I think.")
  assert teaching["model_name"] == run.config["teacher"]["path"]
  assert answer["message"] == "so it is 1"
  assert answer["metrics"] == {"completion_tokens": 4}
  assert answer["extra"]["score"] == 0.0
  assert found["extra"]["arm"] == run_files.AFTER


def test_alone_and_under_a_constant_there_is_no_plan(run):
  alone = atif.trajectory(run, run.attempts[0])
  assert [s["source"] for s in alone["steps"]] == ["user", "agent"]
  constant = run.attempts[0] | {"teaching": "Carry the one."}
  steps = atif.trajectory(run, constant)["steps"]
  assert [s["message"] for s in steps][1] == "Carry the one."
  assert "reasoning_content" not in steps[1]
  assert "model_name" not in steps[1] and "model_name" in steps[2]


def test_another_student_is_named_by_its_model(tmp_path):
  lines = [run_files.attempt("m: student alone", 0, 1.0, student="m")]
  other = reading.read(run_files.write_run(tmp_path / "other", lines))
  (answer,) = atif.trajectory(other, other.attempts[0])["steps"][1:]
  assert answer["model_name"] == "m"


def test_a_guest_is_named_by_its_place_in_the_config(run):
  run.config["evaluate"] = {"teachers": ["runs/b", "ORG/b"]}
  for arm, name in (
    ("teacher of ORG/b", "ORG/b"),
    ("m: teacher of runs/b",) * 2,
  ):
    found = atif.trajectory(run, run.attempts[5] | {"arm": arm})
    assert found["steps"][2]["model_name"] == name.removeprefix(
      "m: teacher of "
    )
