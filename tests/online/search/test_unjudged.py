"""Candidates under which replies are empty, or models fail more often."""

import pytest

from atlas_jax.online.search import report
from tests.online.contests import choose, chosen, contest, world


def silent(candidate, where, how=None):
  """As world(candidate), but under the candidate's teaching the student gives
  no answer (`how`: that reply) to the questions for which `where` holds."""

  def answer(messages):
    prompt = messages[0]["content"]
    taught = prompt.startswith("GUIDED") and "carry" in prompt
    if taught and where(int(prompt.split("+")[0].split()[-1])):
      return "" if how is None else how()
    return world(candidate)(messages)

  return answer


QUIET = {"student__retries": 0}


def test_a_candidate_that_falls_silent_is_wrong_there(tmp_path):
  # Where it answers it is right; it is silent on the half that was right.
  answer = silent(1, lambda a: a % 2 == 0)
  choice = chosen(tmp_path, answer, (0.5, 0.9), **QUIET)
  (_, fresh) = choice.fresh
  assert (fresh.accuracy, fresh.non_degradation) == (0.5, 0.5)
  assert (fresh.samples, fresh.pairs) == (10, 10)
  assert choice.kept == 0
  arms = {a["name"]: a for a in choice.evaluation["arms"]}
  assert [a["unjudged"] for a in arms.values()] == [0] * len(arms)


def failing():
  from aiohttp import web

  return web.Response(status=400)


def test_one_under_which_models_fail_more_often_is_not_kept(tmp_path):
  # 3000, 3010, ... of the test split: 4 of 40 have no verdict.
  answer = silent(1, lambda a: a >= 3000 and a % 10 == 0, failing)
  with contest(tmp_path, answer, (0.5, 0.9), **QUIET) as (run, _):
    choice = choose(run)
  assert choice.best == 1 and choice.kept == 0
  assert choice.reasons == (
    "only 36 of 40 test problems could be judged under the chosen prompts and"
    " the seed prompts, 40 under the seed prompts",
  )
  # All arms on the 36 that all have; 16 of them were right alone.
  arms = choice.evaluation["arms"]
  assert [a["problems"] for a in arms] == [36] * 3 and choice.pairs == 36
  assert [a["unjudged"] for a in arms] == [0, 0, 4]
  assert [a["accuracy"] for a in arms] == [16 / 36, 16 / 36, 1.0]
  text = report.markdown(choice, run.journal.candidates, "done", [])
  assert "Compared on the 36 problems that all were judged on." in text
  assert "candidate 1 4." in text


def test_few_pairs_keep_the_seed(tmp_path):
  # The same 6 of 40 fail under both: 34 are below 90%.
  def answer(messages):
    prompt = messages[0]["content"]
    if prompt.startswith("GUIDED") and any(
      f" 300{i}+" in prompt for i in range(6)
    ):
      return failing()
    return world(1)(messages)

  choice = chosen(tmp_path, answer, (0.5, 0.9), **QUIET)
  assert choice.kept == 0
  (reason,) = choice.reasons
  assert reason.startswith("only 34 of 40 test problems")
  assert [a["unjudged"] for a in choice.evaluation["arms"]] == [6, 6, 6]


def test_none_of_the_test_problems_under_the_candidate(tmp_path):
  answer = silent(1, lambda a: a >= 3000, failing)
  with contest(tmp_path, answer, (0.5, 0.9), **QUIET) as (run, _):
    choice = choose(run)
  assert choice.kept == 0 and choice.pairs == 0
  assert choice.score_gain is None and choice.test_score is None
  assert choice.reasons[0].startswith("only 0 of 40 test problems could be")
  names = [a["name"] for a in choice.evaluation["arms"]]
  assert names == ["student alone", "seed prompts"]
  report.markdown(choice, run.journal.candidates, "done", [])


def test_each_is_compared_on_its_own_problems(tmp_path):
  """One that was judged on few is dropped, and costs the others nothing."""

  def answer(messages):
    prompt = messages[0]["content"]
    if prompt.startswith("TEACH 2 ") and any(
      f" 200{i}+" in prompt for i in range(6)
    ):
      return failing()
    return world(1, 2)(messages)

  choice = chosen(tmp_path, answer, (0.5, 0.8, 0.9), teacher__retries=0)
  assert [f.candidate for f in choice.fresh] == [0, 1]
  assert [f.pairs for f in choice.fresh] == [10, 10]
  assert choice.kept == 1 and choice.reasons == ()
  (why,) = choice.dropped
  assert "only 4 of 10 samples" in why and "under candidate 2" in why


def test_one_that_is_dropped_is_named_where_the_seed_is_kept(tmp_path):
  answer = silent(1, lambda a: 2000 <= a < 2006, failing)
  choice = chosen(tmp_path, answer, (0.5, 0.9), **QUIET)
  assert choice.kept == 0 and [f.candidate for f in choice.fresh] == [0]
  assert choice.reasons[1:] == (
    "only 4 of 10 samples of the validation problems could be judged under"
    " candidate 1 and the seed prompts, 10 under the seed prompts",
  )


def test_the_gap_is_of_the_same_problems(tmp_path):
  """One fails under all prompts: the score it had there does not count."""

  def answer(messages):
    prompt = messages[0]["content"]
    if prompt.startswith("GUIDED") and " 2000+" in prompt:
      return failing()
    return world(1)(messages)

  with contest(tmp_path, answer, (0.5, 0.9), **QUIET) as (run, _):
    scores = run.journal.candidates[1].scores
    for problem in run.sets.validation:
      if problem.question.startswith("2000+"):
        scores[problem.id] = 0.0
    choice = choose(run)
  right = (1.5 + 0.1 * 5 / 7) / 1.6
  assert choice.best == 1 and choice.fresh[1].pairs == 9
  assert choice.fresh[1].gap == pytest.approx(0.9 - right)
