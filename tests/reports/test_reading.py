"""What is read of a run: arms, rates, flips, differences of configs."""

import json

import pytest

from atlas_jax.reports import comparing, page_data, reading
from atlas_jax.reports.tables import ReportError
from atlas_jax.teaching import statistics
from tests.reports import run_files


@pytest.fixture
def run(tmp_path):
  return reading.read(run_files.write_run(tmp_path / "run"))


def test_arms_stand_in_their_order_and_problems_flip(run):
  assert run.arms() == [run_files.ALONE, run_files.AFTER]
  assert reading.flips(run, run_files.AFTER) == {
    "p0": "fixed",
    "p1": "broken",
    "p2": "still right",
    "p3": "still wrong",
  }


def test_samples_of_a_problem_are_one_rate_and_the_unjudged_are_left_out(
  tmp_path,
):
  lines = [
    run_files.attempt(run_files.ALONE, 0, 1.0),
    run_files.attempt(run_files.ALONE, 0, 0.0, sample=1),
    run_files.attempt(run_files.ALONE, 1, 1.0),
  ]
  lines[2]["solution"]["score"] = None
  assert statistics.rates(lines) == {"p0": 0.5}


def test_a_teacher_of_a_later_evaluation_stands_behind_the_earlier(tmp_path):
  path = run_files.write_run(tmp_path / "run")
  later = [run_files.attempt("later", i, 1.0) for i in range(4)]
  text = "".join(json.dumps(line) + "\n" for line in later)
  (path / "episodes/10_evaluate.jsonl").write_text(text)
  assert reading.read(path).arms()[-1] == "later"


def test_of_an_arm_that_was_sampled_again_the_newest_lines_count(tmp_path):
  path = run_files.write_run(tmp_path / "run")
  again = [run_files.attempt(run_files.AFTER, i, 1.0) for i in range(4)]
  text = "".join(json.dumps(line) + "\n" for line in again)
  (path / "episodes/2_evaluate.jsonl").write_text(text)
  run = reading.read(path)
  assert run.arm(run_files.AFTER)[1] == again
  assert len(run.attempts) == 8


def test_the_decision_is_made_of_what_an_older_version_wrote():
  choice = {"kept": 0, "reasons": ["a", "b"], "proven": False, "harm": None}
  assert reading.decision(choice) == "The seed prompts are kept: a; b."
  harm = {"estimate": -0.5, "low": -0.6, "high": -0.4}
  choice = {"kept": 2, "reasons": [], "proven": True, "harm": harm}
  text = reading.decision(choice)
  assert text.startswith("The prompts of candidate 2 are kept. Their gain over")
  assert "shown on the test split (the 95% interval excludes 0). Do not" in text
  assert "by -50.0 [" in text


@pytest.mark.parametrize("missing", ["config.json", "episodes", "all"])
def test_a_directory_without_a_run_is_refused_by_its_name(tmp_path, missing):
  path = tmp_path / "run"
  if missing == "all":
    path.mkdir()
  else:
    run_files.write_run(path)
  if missing == "config.json":
    (path / missing).unlink()
  if missing == "episodes":
    (path / "metrics.jsonl").unlink()
    (path / "episodes/1_evaluate.jsonl").unlink()
  with pytest.raises(ReportError, match=str(path)):
    reading.read(path)


def test_an_arm_that_is_not_there_is_refused_with_the_valid_ones(run):
  with pytest.raises(ReportError, match=run_files.AFTER):
    reading.flips(run, "teacher after sft")


def test_another_student_is_held_against_itself_alone(tmp_path):
  theirs = [reading.titled(x, "m") for x in (run_files.ALONE, run_files.AFTER)]
  lines = run_files.attempts()
  for title, scores in zip(theirs, ((1, 0), (1, 1)), strict=True):
    lines += [
      run_files.attempt(title, i, float(score), student="m")
      for i, score in enumerate(scores)
    ]
  run = reading.read(run_files.write_run(tmp_path / "run", lines))
  assert reading.flips(run, theirs[1]) == {"p0": "still right", "p1": "fixed"}
  assert reading.flips(run, run_files.AFTER)["p0"] == "fixed"
  # Where no arm is named it is that of the run's own student.
  assert comparing.compare(run, run).names[0] == f"run: {run_files.AFTER}"
  shown, _ = page_data.evaluation(run, 10**6)
  numbers = {title: i for i, title in enumerate(shown["arms"])}
  alone, taught = (numbers[title] for title in theirs)
  assert shown["alone"][taught] == shown["alone"][alone] == alone
  assert {*shown["flips"]} == {taught, numbers[run_files.AFTER]}
  reward = {(x["arm"], x["problem"]): x["reward"] for x in shown["attempts"]}
  # It was right alone: nothing was improved.
  assert reward[taught, 0]["improvement"] == 0.0
  assert reward[taught, 1]["improvement"] == 1.0


def test_two_arms_are_compared_by_problem(run):
  found = comparing.compare(run, run, other_arm=run_files.ALONE)
  assert found.problems == 4
  assert found.accuracy == (0.5, 0.5)
  assert found.difference.estimate == 0.0
  assert found.difference.low < 0 < found.difference.high
  assert found.mcnemar_p == 1.0
  assert list(found.flips.values()) == [
    *("fixed", "broken", "still right", "still wrong")
  ]


def test_seeds_are_compared_pair_by_pair_and_together(tmp_path, run):
  fixed = run_files.attempts(((0.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)))
  other = reading.read(run_files.write_run(tmp_path / "other", fixed))
  pairs = [
    comparing.compare(one, one, other_arm=run_files.ALONE)
    for one in (run, other)
  ]
  assert pairs[0].differences == (1.0, -1.0, 0.0, 0.0)
  rows = dict(comparing.over_seeds(pairs))
  assert rows["Seeds"] == "2"
  # 50% and 100%; the differences are 0 and 50 points.
  assert [v for k, v in rows.items() if "Accuracy" in k] == [
    *("75.0% ± 35.4 (sd)", "50.0% ± 0.0 (sd)")
  ]
  assert rows["Difference [95% over seeds and problems]"].startswith("+25.0 [")


def test_runs_without_a_common_problem_are_refused(tmp_path, run):
  lines = run_files.attempts()
  other = run_files.write_run(
    tmp_path / "other", [x | {"id": "x" + x["id"]} for x in lines]
  )
  with pytest.raises(ReportError, match="no problem in common"):
    comparing.compare(run, reading.read(other))


@pytest.mark.parametrize(
  ("filters", "ids"),
  [
    ({}, ["p0", "p1", "p2", "p3"]),
    ({"failures": True}, ["p1", "p3"]),
    ({"flip": "broken"}, ["p1"]),
    ({"kind": "even"}, ["p0", "p2"]),
    ({"text": "question 3"}, ["p3"]),
    ({"kind": "even", "failures": True}, []),
  ],
)
def test_episodes_are_chosen_by_every_filter(run, filters, ids):
  assert [x["id"] for x in comparing.selected(run, **filters)] == ids


def test_a_right_answer_under_a_leak_is_a_failure(tmp_path):
  lines = run_files.attempts(leaked=True)
  run = reading.read(run_files.write_run(tmp_path / "run", lines))
  assert len(comparing.selected(run, failures=True)) == 4


@pytest.mark.parametrize("wrong", [{"kind": "odder"}, {"flip": "mended"}])
def test_a_filter_that_names_nothing_lists_the_valid_ones(run, wrong):
  with pytest.raises(ReportError, match=r"valid: (even, odd|fixed, broken)"):
    comparing.selected(run, **wrong)


def test_lines_of_an_older_version_are_refused_with_the_new_names(tmp_path):
  old = run_files.training_line(1, 0) | {"schema": 2}
  run = reading.read(run_files.write_run(tmp_path / "run", training=[old]))
  with pytest.raises(ReportError, match=r"0_grpo\.jsonl .*approach is probe"):
    list(run.training())
  lines = [x | {"schema": 1} for x in run_files.attempts()]
  path = run_files.write_run(tmp_path / "other", lines)
  with pytest.raises(
    ReportError, match=r"1_evaluate\.jsonl .*guided is taught"
  ):
    reading.read(path)
