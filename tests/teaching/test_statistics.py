"""Intervals and tests with numbers worked by hand or by scipy."""

import numpy as np
import pytest
import scipy.stats

from atlas_jax.data.problems import make_problem
from atlas_jax.teaching import statistics, transcripts
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.episode import Attempt
from atlas_jax.teaching.speakers import Said
from atlas_jax.teaching.statistics import (
  accuracy_interval,
  arm_result,
  by_kind,
  mcnemar,
  non_degradation,
  paired_bootstrap,
  wilson,
)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (5, 10), (10, 10), (97, 200)])
def test_wilson_is_scipys(k, n):
  ours = wilson(k, n)
  theirs = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
  assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
  assert ours.estimate == k / n


def test_wilson_needs_a_problem():
  with pytest.raises(ValueError, match="0 problems"):
    wilson(0, 0)


def test_mcnemar_by_hand():
  # Three fixed, none broken: 2 * (1/2)^3.
  assert mcnemar([0, 0, 0, 1], [1, 1, 1, 1]) == 0.25
  # One fixed, one broken: no evidence at all; nothing flipped: the same.
  assert mcnemar([0, 1], [1, 0]) == 1.0
  assert mcnemar([1, 1], [1, 1]) == 1.0
  before = [0] * 20 + [1] * 7
  after = [1] * 20 + [0] * 7
  assert mcnemar(before, after) == pytest.approx(
    scipy.stats.binomtest(7, 27).pvalue
  )


def test_bootstrap_is_seeded_paired_and_covers_the_normal_interval():
  rng = np.random.default_rng(0)
  before = rng.random(300) < 0.4
  after = before | (rng.random(300) < 0.3)
  gain = after.astype(float) - before
  a = paired_bootstrap(before, after, resamples=4000, seed=1)
  assert a == paired_bootstrap(before, after, resamples=4000, seed=1)
  assert a != paired_bootstrap(before, after, resamples=4000, seed=2)
  half = 1.96 * gain.std() / np.sqrt(300)
  assert a.estimate == pytest.approx(gain.mean())
  assert a.low == pytest.approx(gain.mean() - half, abs=0.006)
  assert a.high == pytest.approx(gain.mean() + half, abs=0.006)
  # Pairs that all gain the same leave nothing to chance.
  same = paired_bootstrap([0, 1], [1, 2], resamples=50, seed=0)
  assert (same.low, same.high) == (1.0, 1.0)


def test_bootstrap_refuses_what_is_no_pairs():
  with pytest.raises(ValueError, match="pairs"):
    paired_bootstrap([], [], resamples=10, seed=0)


def test_non_degradation_over_all_and_over_right():
  before = [1, 1, 1, 0, 0]
  after = [1, 1, 0, 1, 0]
  assert non_degradation(before, after) == (0.8, pytest.approx(2 / 3))
  assert non_degradation([0, 0], [0, 1]) == (1.0, None)


def attempt(problem, score, completed=True, tokens=10, **changes):
  """A line of the episodes."""
  status = "correct" if completed else "no_answer"
  return {
    "id": problem,
    "kind": None,
    "teacher_text": None,
    "teaching_tokens": 4,
    "seconds": 0.5,
    "leaked": False,
    "solution": {"score": score, "status": status, "tokens": tokens},
  } | changes


def test_an_arm_by_hand():
  alone = [attempt("a", 1.0), attempt("b", 0.0), attempt("c", 0.0),
           attempt("d", 1.0)]  # fmt: skip
  taught = [
    attempt("a", 1.0, tokens=20),
    attempt("b", 1.0, completed=False),
    attempt("c", 1.0, leaked=True),
    attempt("d", None),  # not judged: left out of every comparison
  ]
  result = arm_result("taught", taught, alone=alone, resamples=100, seed=0)
  assert (result.problems, result.unjudged) == (3, 1)
  assert result.accuracy == 1.0
  assert result.gain == pytest.approx(2 / 3)
  assert result.completion_rate == 0.75
  assert result.response_tokens == 12.5
  assert result.leak_rate == 0.25
  assert result.non_degradation_all == result.non_degradation_correct == 1.0
  assert result.mcnemar_p == 0.5


def test_samples_of_a_problem_are_averaged_first():
  many = [attempt("a", 1.0)] * 9 + [attempt("a", 0.0)] + [attempt("b", 0.0)]
  result = arm_result("alone", many, alone=None, resamples=10, seed=0)
  assert result.problems == 2
  assert result.accuracy == pytest.approx(0.45)
  assert result.gain is None


def test_nothing_judged_is_an_error():
  with pytest.raises(ValueError, match="none of its attempts"):
    arm_result("x", [attempt("a", None)], alone=None, resamples=9, seed=0)
  with pytest.raises(ValueError, match="shares no judged problem"):
    statistics.arm_result(
      "x",
      [attempt("a", 1.0)],
      alone=[attempt("b", 1.0)],
      resamples=9,
      seed=0,
    )


def test_every_pair_may_be_drawn():
  # Of two pairs, a resample is both times one of them, or both.
  found = paired_bootstrap([0, 0], [1, 0], resamples=200, seed=0)
  assert (found.estimate, found.low, found.high) == (0.5, 0.0, 1.0)


def test_half_is_not_right_before():
  assert non_degradation([0.5, 0.5], [1, 0.4]) == (0.5, None)
  assert non_degradation([0.5, 1], [0.4, 1]) == (0.5, 1.0)


def test_half_of_the_samples_right_is_no_flip():
  problems = "abcdef"
  alone = [attempt(p, 0.0) for p in problems]
  taught = [attempt(p, right) for p in problems for right in (1.0, 0.0)]
  result = arm_result("taught", taught, alone=alone, resamples=9, seed=0)
  assert (result.gain, result.mcnemar_p) == (0.5, 1.0)
  one = [attempt("a", 1.0, teacher_text="")]
  asked = arm_result("taught", one, alone=alone, resamples=9, seed=0)
  assert asked.gain_per_interaction == 1.0


def test_what_counts_of_an_attempt():
  problem = make_problem("27 + 35?", "62")
  attempts = [
    Attempt(problem, 0, Said("#### 62", 7, "stop")),
    Attempt(problem, 0, Said("#### 61", 8, "stop"), teaching="carry"),
    Attempt(
      problem,
      *(1, Said("it is 62", 9, "length")),
      teaching="say 62",
      teaching_tokens=3,
      seconds=2.0,
    ),
  ]
  with AnswerChecker() as checker:
    verdicts = [
      checker.check(problem, a.solution.text, a.solution.finish_reason)
      for a in attempts
    ]
  lines = [
    transcripts.attempt_json("arm", *judged)
    for judged in zip(attempts, verdicts, strict=True)
  ]
  assert [v.status for v in verdicts] == ["correct", "wrong", "truncated"]
  assert [x["solution"]["score"] for x in lines] == [1.0, 0.0, 0.0]
  assert [x["leaked"] for x in lines] == [False, False, True]
  last = arm_result("arm", lines[-1:], alone=None, resamples=9, seed=0)
  assert (last.completion_rate, last.response_tokens) == (0.0, 9.0)
  assert (last.teaching_tokens, last.seconds_per_problem) == (3.0, 2.0)


def attempts_of(scores, **known):
  """Attempts at problems, each a list of its samples' scores."""
  return [
    attempt(f"p{i}", score, teaching_tokens=known.get("tokens", 0))
    for i, samples in enumerate(scores)
    for score in samples
  ]


def result_of(scores, alone=None, **known):
  return arm_result(
    "arm",
    attempts_of(scores, **known),
    alone=None if alone is None else attempts_of(alone),
    resamples=200,
    seed=0,
  )


def test_several_samples_are_one_problem_and_any_right_one_passes():
  result = result_of([[1.0, 0.0], [0.0, 0.0]])
  assert (result.accuracy, result.samples, result.pass_at_k) == (0.25, 2, 0.5)
  assert result_of([[1.0], [0.0]]).pass_at_k is None


def test_the_gain_is_divided_by_the_tokens_of_teaching():
  result = result_of([[1.0], [1.0]], [[0.0], [1.0]], tokens=10)
  assert result.gain_per_interaction is None  # no teacher was asked
  assert result.gain_per_teaching_token == 0.05
  assert result_of([[1.0]], [[0.0]]).gain_per_teaching_token is None


def _coverage(samples, interval):
  """How often an interval holds the true accuracy, in 1,000 draws."""
  rng = np.random.default_rng(0)
  rates = rng.beta(0.6, 0.6, (1000, 80))
  held = 0
  for of_draw in rates:
    right = (rng.random((samples, 80)) < of_draw).astype(float)
    scores = {str(i): list(column) for i, column in enumerate(right.T)}
    found = interval(scores)
    held += found.low <= 0.5 <= found.high
  return held / 1000


def test_the_interval_of_an_accuracy_holds_the_truth_in_95_of_100():
  def clustered(scores):
    return accuracy_interval(scores, resamples=200, seed=1)

  assert _coverage(4, clustered) == pytest.approx(0.95, abs=0.025)
  assert _coverage(1, clustered) == pytest.approx(0.95, abs=0.025)

  def as_if_independent(scores):
    flat = [score for samples in scores.values() for score in samples]
    return wilson(sum(flat), len(flat))

  assert _coverage(4, as_if_independent) < 0.85


def test_one_sample_a_problem_has_wilsons_interval():
  scores = {"a": [1.0], "b": [0.0]}
  assert accuracy_interval(scores, resamples=9, seed=0) == wilson(1.0, 2)


def test_kinds_have_their_own_accuracies():
  alone = attempts_of([[0.0], [1.0], [1.0]])
  taught = [
    attempt(one["id"], 1.0, kind="x" if i < 2 else None)
    for i, one in enumerate(alone)
  ]
  assert by_kind(taught, alone) == {
    "x": {"problems": 2, "accuracy_alone": 0.5, "accuracy": 1.0}
  }
