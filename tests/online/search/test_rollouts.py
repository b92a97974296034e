"""Rollouts against a stub: who is asked, how often, and what is scored."""

import pytest

from atlas_jax.online.search.examples import example, verdict
from atlas_jax.online.search.rollouts import RolloutError, trial
from tests.online import small_world
from tests.online.opened_run import better, broken_for, opened
from tests.online.stub_server import StubServer


def test_what_no_candidate_changes_is_asked_once(tmp_path):
  with (
    StubServer(small_world.answer) as stub,
    opened(tmp_path, stub.url) as run,
  ):
    problems = run.sets.validation[:3]
    seed = trial(run.config.prompts, problems, "validation")
    child = trial(better(run), problems, "validation")
    run.rollouts.evaluate([seed])
    assert len(stub.calls) == 12  # baseline, probe, teaching, guided
    run.rollouts.evaluate([seed, child])
    assert len(stub.calls) == 18  # teaching, guided
    run.rollouts.evaluate([child, seed])
    assert len(stub.calls) == 18
    fresh = trial(run.config.prompts, problems, "validation", 1)
    run.rollouts.evaluate([fresh])
    assert len(stub.calls) == 27  # the probe is greedy
  prompts = [c.body["messages"][0]["content"] for c in stub.calls]
  assert sum(p.startswith("SOLVE") for p in prompts) == 6
  seeds = {c.body["seed"] for c in stub.calls}
  # One a (problem, role, replicate): the child shares those of the seed.
  assert len(seeds) == 21


@pytest.mark.parametrize("solution", [0.0, 0.7])
@pytest.mark.parametrize("probe", [0.0, 0.7])
def test_a_greedy_sample_is_paid_once(tmp_path, solution, probe):
  with (
    StubServer(small_world.answer) as stub,
    opened(
      tmp_path,
      stub.url,
      episode__student_temperature=solution,
      episode__probe_temperature=probe,
    ) as run,
  ):
    problems = run.sets.validation[:2]
    jobs = [
      trial(run.config.prompts, problems, "validation", i) for i in (0, 1)
    ]
    run.rollouts.evaluate(jobs)
    asked = [c.body["messages"][0]["content"] for c in stub.calls]
  for start, temperature in (("SOLVE", solution), ("OUTLINE", probe)):
    found = sum(p.startswith(start) for p in asked)
    assert found == (2 if temperature == 0 else 4)
  # What is not greedy by itself, or follows from it, is another sample.
  assert sum(p.startswith("TEACH") for p in asked) == 4


@pytest.mark.parametrize("start", ["SOLVE", "GUIDED"])
def test_an_empty_reply_is_an_answer_that_is_not_right(tmp_path, start):
  with (
    StubServer(small_world.silent(start)) as stub,
    opened(tmp_path, stub.url, student__retries=0, teacher__retries=0) as run,
  ):
    even = [p for p in run.sets.validation if int(p.question[:4]) % 2 == 0]
    jobs = [trial(run.config.prompts, even, "validation")]
    (made,) = run.rollouts.evaluate(jobs)
    before = len(stub.calls)
    run.rollouts.evaluate(jobs)
    run.rollouts.evaluate([trial(better(run), even, "validation")])
    asked = [c.body["messages"][0]["content"] for c in stub.calls]
  assert before <= 4 * len(even)
  taught = float(start == "SOLVE")
  for rollout in made:
    assert rollout.why is None and rollout.scored is not None
    assert rollout.objectives["accuracy"] == taught
    assert rollout.objectives["completion"] == taught
    assert rollout.objectives["non_degradation"] == taught
    assert "no answer was found" in verdict(rollout)
    assert example(rollout, 100)["Question"] == rollout.problem.question
  # It came: neither a second try nor the next candidate asks for it again.
  if start == "SOLVE":
    assert sum(p.startswith(start) for p in asked) == len(even)
  lines = (tmp_path / "run/episodes/validation.jsonl").read_text()
  assert lines.count("\n") == 2 * len(even)


def test_a_failure_beside_an_empty_reply_is_not_scored(tmp_path):
  def answer(messages):
    prompt = messages[0]["content"]
    if prompt.startswith("SOLVE 2003+"):
      return ""
    return broken_for("2003+", "GUIDED")(messages)

  with (
    StubServer(answer) as stub,
    opened(tmp_path, stub.url, student__retries=0) as run,
  ):
    jobs = [trial(run.config.prompts, run.sets.validation, "validation")]
    (made,) = run.rollouts.evaluate(jobs)
  (lost,) = [r for r in made if r.score is None]
  assert lost.scored is None and lost.why.startswith("taught: error HTTP 500")


def test_scores_are_the_weighted_objectives(tmp_path):
  with (
    StubServer(small_world.answer) as stub,
    opened(tmp_path, stub.url) as run,
  ):
    even, odd = sorted(
      run.sets.validation, key=lambda p: int(p.question[:4]) % 2
    )[:: len(run.sets.validation) - 1]
    (before,) = run.rollouts.evaluate(
      [trial(run.config.prompts, (even, odd), "validation")]
    )
    (after,) = run.rollouts.evaluate(
      [trial(better(run), (even, odd), "validation")]
    )
  # Alone 7 words, guided 2: a right response saves 5 of 7.
  assert before[0].objectives == {
    "accuracy": 1.0,
    "non_degradation": 1.0,
    "efficiency": pytest.approx(5 / 7),
    "completion": 1.0,
  }
  assert before[1].objectives == {
    "accuracy": 0.0,
    "non_degradation": 1.0,
    "efficiency": 0.0,
    "completion": 1.0,
  }
  assert before[0].score == pytest.approx((1 + 0.5 + 0.1 * 5 / 7) / 1.6)
  assert before[1].score == pytest.approx(0.5 / 1.6)
  assert after[1].score == pytest.approx((1 + 0.5 + 0.1 * 5 / 7) / 1.6)


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

  with (
    StubServer(answer) as stub,
    opened(
      tmp_path,
      stub.url,
      objectives__leak_penalty=penalty,
      objectives__efficiency=0.0,
    ) as run,
  ):
    problems = run.sets.validation[:1]
    ((rollout,),) = run.rollouts.evaluate(
      [trial(run.config.prompts, problems, "validation")]
    )
  assert rollout.scored.teachings[0].leaked
  assert rollout.score == score


def test_a_dead_model_stops_the_run(tmp_path):
  with (
    StubServer(broken_for("+", "TEACH")) as stub,
    opened(tmp_path, stub.url, teacher__retries=0) as run,
    pytest.raises(RolloutError, match=r"2 of 2 .*teach: error HTTP 500"),
  ):
    problems = run.sets.validation[:2]
    run.rollouts.evaluate([trial(run.config.prompts, problems, "validation")])


def test_an_agent_is_not_probed(tmp_path):
  with (
    StubServer(small_world.answer) as stub,
    opened(
      tmp_path,
      stub.url,
      agent__kind="python",
      agent__python__target="tests.online.small_world:student",
    ) as run,
  ):
    problems = run.sets.validation[:2]
    jobs = [trial(run.config.prompts, problems, "validation")]
    (made,) = run.rollouts.evaluate(jobs)
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

  with StubServer(answer) as stub, opened(tmp_path, stub.url) as run:
    problems = run.sets.validation
    for count, told in ((3, 0), (5, 1)):
      caplog.clear()
      job = trial(run.config.prompts, problems[:count], "validation", count)
      run.rollouts.evaluate([job])
      lines = [r.getMessage() for r in caplog.records]
      lines = [line for line in lines if "are the same" in line]
      assert len(lines) == told, lines
  assert f"all answers of {role} to 5 questions are the same" in lines[0]
  assert "come later" in lines[0] and "\n" not in lines[0]
