"""Rollouts against a stub: who is asked, how often, and what is scored."""

import pytest

from atlas_jax.online.search.examples import example, verdict
from atlas_jax.online.search.rollouts import trial
from tests.online import small_world
from tests.online.opened_run import better, broken_for, evaluated, playing

QUICK = {"student__retries": 0, "teacher__retries": 0}


def even_of(run) -> list:
  """The problems that the student solves alone."""
  return [p for p in run.sets.validation if int(p.question[:4]) % 2 == 0]


def test_what_no_candidate_changes_is_asked_once(tmp_path):
  with playing(tmp_path, small_world.answer) as (run, stub):
    problems = run.sets.validation[:3]
    seed = trial(run.config.prompts, problems, "validation")
    child = trial(better(run), problems, "validation")
    run.rollouts.evaluate(seed)
    assert len(stub.calls) == 12  # baseline, probe, teaching, guided
    for jobs in (seed + child, child + seed):
      run.rollouts.evaluate(jobs)
      assert len(stub.calls) == 18  # teaching, guided
    evaluated(run, problems, replicate=1)
    assert len(stub.calls) == 27  # the probe is greedy
  assert sum(p.startswith("SOLVE") for p in stub.asked) == 6
  seeds = {c.body["seed"] for c in stub.calls}
  # One a (problem, role, replicate): the child shares those of the seed.
  assert len(seeds) == 21


@pytest.mark.parametrize("solution", [0.0, 0.7])
@pytest.mark.parametrize("probe", [0.0, 0.7])
def test_a_greedy_sample_is_paid_once(tmp_path, solution, probe):
  changes = {
    "episode__student_temperature": solution,
    "episode__probe_temperature": probe,
  }
  with playing(tmp_path, small_world.answer, **changes) as (run, stub):
    problems = run.sets.validation[:2]
    for replicate in (0, 1):
      evaluated(run, problems, replicate=replicate)
  for start, temperature in (("SOLVE", solution), ("OUTLINE", probe)):
    found = sum(p.startswith(start) for p in stub.asked)
    assert found == (2 if temperature == 0 else 4)
  # What is not greedy by itself, or follows from it, is another sample.
  assert sum(p.startswith("TEACH") for p in stub.asked) == 4


@pytest.mark.parametrize("start", ["SOLVE", "GUIDED"])
def test_an_empty_reply_is_an_answer_that_is_not_right(tmp_path, start):
  answer = small_world.silent(start)
  with playing(tmp_path, answer, **QUICK) as (run, stub):
    even = even_of(run)
    made = evaluated(run, even)
    assert len(stub.calls) <= 4 * len(even)
    evaluated(run, even)
    evaluated(run, even, better(run))
  taught = float(start == "SOLVE")
  for rollout in made:
    assert rollout.why is None and rollout.scored is not None
    for name in ("accuracy", "completion", "non_degradation"):
      assert rollout.objectives[name] == taught
    assert "no answer was found" in verdict(rollout)
    assert example(rollout, 100)["Question"] == rollout.problem.question
  # It came: neither a second try nor the next candidate asks for it again.
  if start == "SOLVE":
    assert sum(p.startswith(start) for p in stub.asked) == len(even)
  lines = (tmp_path / "run/episodes/validation.jsonl").read_text()
  assert lines.count("\n") == 2 * len(even)


def test_a_failure_beside_an_empty_reply_is_not_scored(tmp_path):
  def answer(messages):
    if messages[0]["content"].startswith("SOLVE 2003+"):
      return ""
    return broken_for("2003+", "GUIDED")(messages)

  with playing(tmp_path, answer, **QUICK) as (run, _):
    made = evaluated(run, run.sets.validation)
  (lost,) = [r for r in made if r.score is None]
  assert lost.scored is None and lost.why.startswith("taught: error HTTP 500")


def test_scores_are_the_weighted_objectives(tmp_path):
  with playing(tmp_path, small_world.answer) as (run, _):
    problems = sorted(run.sets.validation, key=lambda p: int(p.question[3]) % 2)
    problems = problems[:: len(problems) - 1]  # one is even, one is odd
    even, odd = evaluated(run, problems)
    _, mended = evaluated(run, problems, better(run))
  names = ("accuracy", "non_degradation", "efficiency", "completion")
  # Alone 7 words, guided 2: a right response saves 5 of 7.
  right = dict(zip(names, (1.0, 1.0, pytest.approx(5 / 7), 1.0), strict=True))
  assert even.objectives == mended.objectives == right
  assert odd.objectives == dict(zip(names, (0.0, 1.0, 0.0, 1.0), strict=True))
  assert even.score == pytest.approx((1 + 0.5 + 0.1 * 5 / 7) / 1.6)
  assert mended.score == even.score
  assert odd.score == pytest.approx(0.5 / 1.6)


@pytest.mark.parametrize("penalty, score", [(1.0, 0.0), (0.0, 1.0)])
def test_a_teaching_that_states_the_answer_loses_the_penalty(
  tmp_path, penalty, score
):
  def answer(messages):
    prompt = messages[0]["content"]
    if prompt.startswith("TEACH"):
      a = int(prompt.split()[1][:4])
      return f"<teaching>carry: it is {2 * a + 100}</teaching>"
    return small_world.answer(messages)

  changes = {
    "objectives__leak_penalty": penalty,
    "objectives__efficiency": 0.0,
  }
  with playing(tmp_path, answer, **changes) as (run, _):
    (rollout,) = evaluated(run, run.sets.validation[:1])
  assert rollout.scored.teachings[0].leaked and rollout.score == score


def test_an_agent_is_not_probed(tmp_path):
  agent = {
    "agent__kind": "python",
    "agent__python__target": "tests.online.small_world:student",
  }
  with playing(tmp_path, small_world.answer, **agent) as (run, stub):
    made = evaluated(run, run.sets.validation[:2])
    spent = {x["role"]: x["calls"] for x in run.record.costs()}
  roles = ("student_baseline", "teacher", "student_taught")
  assert spent == dict.fromkeys(roles, 2)
  episode = made[0].scored.episode
  assert [len(stub.calls), episode.probe] == [2, episode.baseline[0].text]
  assert made[0].score is not None


@pytest.mark.parametrize(
  ("role", "begins"),
  [
    ("student_baseline", "SOLVE"),
    ("teacher", "TEACH"),
    ("student_taught", "GUIDED"),
  ],
)
def test_equal_answers_to_all_questions_are_told(
  tmp_path, caplog, role, begins
):
  def answer(messages):
    said = small_world.answer(messages)
    if messages[0]["content"].startswith(begins):
      return "<teaching>busy</teaching> come later"
    return said.replace("think", messages[0]["content"].split()[1])

  with playing(tmp_path, answer) as (run, _):
    for count, told in ((3, 0), (5, 1)):
      caplog.clear()
      evaluated(run, run.sets.validation[:count], replicate=count)
      lines = [r.getMessage() for r in caplog.records]
      lines = [line for line in lines if "are the same" in line]
      assert len(lines) == told, lines
  assert f"all answers of {role} to 5 questions are the same" in lines[0]
  assert "come later" in lines[0] and "\n" not in lines[0]
