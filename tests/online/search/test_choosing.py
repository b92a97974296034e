"""Which prompts are kept: by fresh samples, the floor, and the test split."""

from dataclasses import asdict

import pytest

from atlas_jax.online.search import optimize, report
from atlas_jax.online.search.rollouts import trial
from tests.online import small_world
from tests.online.contests import choose, chosen, contest, world


def test_the_best_of_the_fresh_samples_is_kept(tmp_path):
  # On validation 1 seemed best, by luck.
  with contest(tmp_path, world(2), (0.05, 0.9, 0.8, 0.1)) as (run, stub):
    choice = choose(run)
    calls = len(stub.calls)
  # 10 validation problems: baseline, probe, 2 for each of seed and 3 others.
  assert calls == 10 * (2 + 2 * 4) + 40 * (2 + 2 * 2)
  assert [f.candidate for f in choice.fresh] == [0, 1, 2, 3]
  assert choice.kept == choice.best == 2
  assert choice.reasons == () and choice.proven
  # Half are odd and are fixed; right ones save 5 of 7 tokens.
  right, wrong = (1.5 + 0.1 * 5 / 7) / 1.6, 0.5 / 1.6
  assert choice.fresh[1].fresh_score == pytest.approx((right + wrong) / 2)
  assert choice.fresh[2].fresh_score == pytest.approx(right)
  assert choice.fresh[2].gap == pytest.approx(0.8 - right)
  assert choice.accuracy_gain.estimate == 0.5
  assert choice.pairs == 40
  # 20 of 40 flip, all to the good.
  assert choice.mcnemar_p == pytest.approx(2 * 0.5**20)
  names = [arm["name"] for arm in choice.evaluation["arms"]]
  assert names == ["student alone", "seed prompts", "candidate 2"]
  accuracy = [arm["accuracy"] for arm in choice.evaluation["arms"]]
  assert accuracy == [0.5, 0.5, 1.0]
  text = report.markdown(choice, run.journal.candidates, "done", [])
  for part in ("Few pairs", "shown", "+50.0", "TEACH 2", "student alone"):
    assert part in text
  # All but the efficiency, alone 7 words and taught 2: picked at 0.8.
  assert choice.test_score == pytest.approx(right)
  assert f"0.8000 - {right:.4f} = {0.8 - right:+.4f}" in text
  assert "student alone 0, seed prompts 0, candidate 2 0." in text


def test_the_seed_is_kept_when_nothing_is_better(tmp_path):
  with contest(tmp_path, world(), (0.5, 0.9)) as (run, stub):
    choice = choose(run)
    calls = len(stub.calls)
  assert choice.kept == 0
  assert "no candidate scored above" in choice.reasons[0]
  # There is nothing to compare on the test split but the student alone.
  assert calls == 10 * (2 + 2 * 2) + 40 * (2 + 2)
  assert [a["name"] for a in choice.evaluation["arms"]] == [
    "student alone",
    "seed prompts",
  ]
  assert not choice.proven and choice.score_gain is None
  assert choice.harm is None


def test_costs_that_are_not_known_are_no_zeros(tmp_path):
  with contest(tmp_path, world(), (0.5, 0.9)) as (run, _):
    choice = choose(run)
  zero = {"role": "r", "calls": 2, "tokens": 1000, "dollars": 0.0}
  zero |= {"unpriced_calls": 0, "lost_calls": 0, "lost_dollars": 0.0}
  costs = [
    zero | {"model": "free"},
    zero | {"model": "local", "unpriced_calls": 2},
    zero | {"model": "both", "unpriced_calls": 1, "dollars": 0.5},
    zero | {"model": "lossy", "lost_calls": 3, "lost_dollars": 0.25},
  ]
  text = report.markdown(choice, run.journal.candidates, "done", costs)
  for line in (
    "| r | free | 2 | 1,000 | 0.0000 | 0 |",
    "| r | local | 2 | 1,000 | unpriced | 0 |",
    "| r | both | 2 | 1,000 | 0.5000 and unpriced | 0 |",
    "| r | lossy | 2 | 1,000 | 0.0000 | 3 (at most 0.2500 dollars) |",
  ):
    assert line in text.splitlines()


def test_prompts_that_are_kept_and_do_harm_are_told(tmp_path, capsys):
  def harmful(messages):
    prompt = messages[0]["content"]
    if prompt.startswith("GUIDED"):
      return "so <solution>0</solution>"
    return small_world.answer(messages)

  with contest(tmp_path, harmful, (0.5, 0.4)) as (run, _):
    choice = choose(run)
  assert choice.kept == 0
  # Half are right alone, none is under the teaching.
  assert choice.harm.estimate == -0.5 and choice.harm.high < 0
  text = report.markdown(choice, run.journal.candidates, "done", [])
  assert "worse than alone, by -50.0 [" in text
  facts = asdict(choice)
  assert facts["harm"]["estimate"] == -0.5
  optimize._show(facts, tmp_path)
  shown = capsys.readouterr().out
  assert "Do not use the prompts that are kept" in shown
  assert shown.count("seed prompts are kept") == 1 and "kept: the" not in shown


def test_below_the_floor_the_seed_is_kept(tmp_path):
  # It fixes the half that is odd and breaks a quarter: better in all.
  scores = (0.5, 0.9)
  choice = chosen(tmp_path, world(breaks=(1,)), scores)
  assert choice.best == 1 and choice.kept == 0
  assert choice.fresh[1].fresh_score > choice.fresh[0].fresh_score
  # 2000, 2004, 2008 of 2000..2009.
  assert choice.fresh[1].non_degradation == pytest.approx(0.7)
  assert all("non_degradation_floor" in why for why in choice.reasons)
  assert len(choice.reasons) == 2  # on validation, and on the test split


def test_one_that_meets_the_floor_goes_before_a_better_one(tmp_path):
  choice = chosen(
    tmp_path,
    world(2, breaks=(1,)),
    (0.5, 0.9, 0.8),
    objectives__non_degradation=0.0,
    objectives__efficiency=0.0,
  )
  assert choice.kept == 2


def test_a_floor_of_0_lets_all_pass(tmp_path):
  choice = chosen(
    tmp_path,
    world(breaks=(1,)),
    (0.5, 0.9),
    choosing__non_degradation_floor=0.0,
  )
  assert choice.kept == 1 and choice.reasons == ()


def test_proof_can_be_asked_for(tmp_path):
  # It fixes 2001 and 3001 alone.
  def answer(messages):
    prompt = messages[0]["content"]
    if prompt.startswith("TEACH 1"):
      fix = "2001+" in prompt or "3001+" in prompt
      return f"<teaching>{'carry' if fix else 'think'}</teaching>"
    return world()(messages)

  choice = chosen(tmp_path, answer, (0.5, 0.9), choosing__require_proof=True)
  assert choice.accuracy_gain.estimate == pytest.approx(1 / 40)
  assert choice.accuracy_gain.low == 0.0
  assert choice.kept == 0 and "require_proof" in choice.reasons[0]


def test_no_gain_on_the_test_split_keeps_the_seed(tmp_path):
  def answer(messages):
    prompt = messages[0]["content"]
    if prompt.startswith("TEACH 1"):
      fix = " 20" in prompt  # validation problems alone
      return f"<teaching>{'carry' if fix else 'think'}</teaching>"
    return world()(messages)

  choice = chosen(tmp_path, answer, (0.5, 0.9))
  assert choice.best == 1 and choice.kept == 0
  assert "score no more" in choice.reasons[0]


def test_without_fresh_samples_the_scores_of_the_search_decide(tmp_path):
  with contest(tmp_path, world(1), (0.5, 0.9), choosing__fresh_samples=0) as (
    run,
    stub,
  ):
    for candidate in run.journal.candidates:
      job = trial(candidate.prompts, run.sets.validation, "validation")
      run.rollouts.evaluate([job])
    before = len(stub.calls)
    choice = choose(run)
    assert len(stub.calls) - before == 40 * (2 + 2 * 2)
  assert choice.kept == 1
  # The scores that they were picked by: no winner's curse is measured.
  assert [f.gap for f in choice.fresh] == [None, None]
  text = report.markdown(choice, run.journal.candidates, "done", [])
  assert "not measured" in text and "fresh samples\n" not in text
