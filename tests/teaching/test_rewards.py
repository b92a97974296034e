"""The reward's formula, each of its knobs, and advantages."""

import dataclasses
import math

import numpy as np
import pytest

from atlas_jax.config import RewardConfig
from atlas_jax.data.problems import make_problem
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.protocol import Teaching, TeachingEpisode
from atlas_jax.teaching.rewards import (
  group_advantages,
  leaks,
  reward,
  score_episodes,
)
from atlas_jax.teaching.speakers import Said

PLAIN = RewardConfig(
  efficiency_weight=1.0,
  degradation_penalty=1.0,
  format_penalty=0.5,
  leak_penalty=1.0,
  length_cost=0.1,
)
CASE = dict(
  pass_rate=0.0,
  baseline_tokens=100.0,
  taught=1.0,
  taught_tokens=60,
  well_formed=True,
  leaked=False,
  teaching_tokens=0,
  max_teaching_tokens=50,
  config=PLAIN,
)


def total(config=PLAIN, **changes):
  return reward(**(CASE | changes | {"config": config})).total


def test_the_published_rule_at_its_four_corners():
  assert total(pass_rate=0.0, taught=1.0) == pytest.approx(1.4)
  assert total(pass_rate=1.0, taught=1.0) == pytest.approx(0.4)
  assert total(pass_rate=1.0, taught=0.0) == -1.0
  assert total(pass_rate=0.0, taught=0.0) == 0.0


def test_between_the_corners_it_is_the_expectation():
  # b = 3/4: right is 1/4 * 1.4 + 3/4 * 0.4, wrong is 3/4 * -1.
  assert total(pass_rate=0.75, taught=1.0) == pytest.approx(0.65)
  assert total(pass_rate=0.75, taught=0.0) == pytest.approx(-0.75)


@pytest.mark.parametrize("b", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("g", [0.0, 0.3, 1.0])
def test_a_share_is_worth_the_expectation_of_right_and_wrong(b, g):
  right, wrong = total(pass_rate=b), total(pass_rate=b, taught=0.0)
  expected = g * right + (1 - g) * wrong
  assert total(pass_rate=b, taught=g) == pytest.approx(expected)


def test_efficiency_is_gated_on_a_right_answer_and_never_negative():
  assert total(taught=0.0, taught_tokens=1) == 0.0
  assert total(taught_tokens=500) == 1.0
  assert total(baseline_tokens=0.0) == 1.0


@pytest.mark.parametrize(
  ("knob", "value", "case", "change"),
  [
    ("efficiency_weight", 3.0, {}, 0.8),
    ("degradation_penalty", 2.0, {"pass_rate": 1.0, "taught": 0.0}, -1.0),
    ("format_penalty", 0.75, {"well_formed": False}, -0.25),
    ("leak_penalty", 3.0, {"leaked": True}, -2.0),
    ("length_cost", 0.6, {"teaching_tokens": 25}, -0.25),
  ],
)
def test_each_knob_changes_the_reward(knob, value, case, change):
  turned = dataclasses.replace(PLAIN, **{knob: value})
  assert total(turned, **case) - total(**case) == pytest.approx(change)


def test_parts_sum_to_the_total():
  r = reward(**(CASE | {"well_formed": False, "leaked": True}))
  assert sum(r.parts.values()) == pytest.approx(r.total)
  assert r.parts["improvement"] == 1.0
  assert r.parts["format"] == -0.5


def test_no_verdict_is_no_reward():
  assert total(taught=None) is None
  assert total(pass_rate=None) is None


@pytest.mark.parametrize(
  ("teaching", "question", "answer", "leak"),
  [
    ("write 62 at the end", "27 + 35?", "62", True),
    ("it is $62.00", "27 + 35?", "62", True),
    ("write 1,262", "27 + 35?", "62", False),
    ("write 620 or 6.2", "27 + 35?", "62", False),
    ("start with the 5", "5 - 0?", "5", False),
    ("go to Paris first", "Capital of France?", "Paris", True),
    ("comparisons help", "What?", "Paris", False),
    ("choose (B)", "Which?", "B", True),
    ("the answer is B", "Which?", "B", True),
    ("A good plan", "Which?", "A", False),
    ("half of it: 0.5", "1 / 2?", "1/2", False),
    ("half of it: 0.5", "2 / 4?", "1/2", True),
    ("start from 25", "Which circle?", "x^2 + y^2 = 25", False),
    ("it is x^2 + y^2 = 25", "Which circle?", "x^2 + y^2 = 25", True),
    ("one of them is 9", "Solve.", "x = 4, y = 9", False),
    ("you find x = 4, y = 9", "Solve.", "x = 4, y = 9", True),
    ("write 18", "Solve.", "x = 18", True),
    ("because of that, write 62", "27 + 35?", "62", True),
    (r"write 3\frac{1}{2}", "7 / 2?", "3.5", True),
    ("wait 60 minutes", "When?", "1:00", False),
    ("come at 13:00", "When?", "1:00 pm", True),
    ("it opens at 3:30", "How many?", "30", False),
    ("write 50", "Half?", "50%", True),
    ("write 70000", "How much?", r"\$70{,}000", True),
    ("choose (B)", "Which? (A) 1 (B) 2", "B", True),
    ("choose (A)", "Which? (A) 1 (B) 2", "B", False),
    ("choose (B)", "Which? (A) 1 (B) 2", "(B)", True),
    ("compare (A) with (B)", "Which? (A) 1 (B) 2", "B", False),
    ("not (A): the answer is B", "Which? (A) 1 (B) 2", "B", True),
    ("nothing", "Which?", "...", False),
    ("The result is 3/4", r"Simplify \frac{6}{8}.", "3/4", True),
    ("It is 3/4", "Express 0.75 as a fraction", "3/4", True),
  ],
)
def test_what_gives_the_answer_away(teaching, question, answer, leak):
  assert leaks(teaching, make_problem(question, answer)) is leak


def solution(answer, tokens=10, finish="stop"):
  return Said(f"<solution>{answer}</solution>", tokens, finish)


def test_an_episode_is_scored_by_the_same_checker_throughout():
  said = Said("x", 1, "stop")
  episode = TeachingEpisode(
      problem=make_problem("27 + 35?", "62"),
      baseline=(solution(62, 20), solution(52, 20), solution(52, 20),
                Said("62", 20, "length")),
      probe="I add",
      teachings=(
          Teaching(said, "carry", "ok", 5, solution(62, 10)),
          Teaching(said, None, "missing", 0, solution(52, 10)),
          Teaching(said, "say 62", "ok", 5, solution(62, 20)),
      ),
      seconds={},
  )  # fmt: skip
  config = RewardConfig(
    efficiency_weight=1.0,
    degradation_penalty=2.0,
    format_penalty=0.5,
    leak_penalty=1.0,
    length_cost=0.0,
  )
  with AnswerChecker() as checker:
    (scored,) = score_episodes(
      [episode], checker=checker, config=config, max_teaching_tokens=50
    )
  assert scored.pass_rate == 0.25  # one of four is cut before it answers
  assert scored.taught_rate == pytest.approx(2 / 3)
  assert [t.leaked for t in scored.teachings] == [False, False, True]
  assert [t.reward.total for t in scored.teachings] == pytest.approx(
    [0.75 + 0.5, -0.25 * 2.0 - 0.5, 0.75 + 0.0 - 1.0]
  )


def test_group_advantages_by_hand():
  values, flat = group_advantages([[1.0, 0.0], [2.0, 2.0]], "group")
  std = math.sqrt(0.5)  # of 1, 0 with ddof 1
  assert values[0] == pytest.approx([0.5 / (std + 1e-4), -0.5 / (std + 1e-4)])
  assert values[1].tolist() == [0.0, 0.0]
  assert flat.tolist() == [False, True]
  assert values.dtype == np.float64


def test_batch_and_centred_advantages_by_hand():
  rewards = [[1.0, 0.0], [2.0, 2.0]]
  std = math.sqrt(((1 - 1.25) ** 2 + 1.25**2 + 2 * 0.75**2) / 3)
  values, _ = group_advantages(rewards, "batch")
  assert values[0] == pytest.approx([0.5 / (std + 1e-4), -0.5 / (std + 1e-4)])
  values, _ = group_advantages(rewards, "centred")
  assert values[0].tolist() == [0.5, -0.5]
  # Two rewards are enough for the spread of a batch, one is not.
  values, _ = group_advantages([[1.0, 0.0]], "batch")
  assert values[0] == pytest.approx([0.70701, -0.70701], abs=1e-5)


@pytest.mark.parametrize("kind", ["group", "batch", "centred"])
def test_missing_rewards_are_left_out(kind):
  with_gap, flat = group_advantages([[1.0, None, 0.0, float("nan")]], kind)
  without, _ = group_advantages([[1.0, 0.0]], kind)
  assert with_gap[0, [0, 2]] == pytest.approx(without[0])
  assert with_gap[0, [1, 3]].tolist() == [0.0, 0.0]
  assert flat.tolist() == [False]


@pytest.mark.parametrize("kind", ["group", "batch", "centred"])
def test_advantages_by_loops(kind):
  rng = np.random.default_rng(0)
  rewards = rng.normal(size=(5, 4)).tolist()
  rewards[1] = [0.5] * 4
  rewards[2][1], rewards[2][3] = None, float("nan")
  rewards[3] = [None, None, 1.0, None]
  known = [
    [r for r in row if r is not None and not math.isnan(r)] for row in rewards
  ]
  everything = np.std([r for row in known for r in row], ddof=1)
  values, flat = group_advantages(rewards, kind)
  assert flat.tolist() == [False, True, False, True, False]
  for g, row in enumerate(rewards):
    for i, r in enumerate(row):
      expected = 0.0
      if not flat[g] and r is not None and not math.isnan(r):
        scale = {
          "group": np.std(known[g], ddof=1) + 1e-4,
          "batch": everything + 1e-4,
          "centred": 1.0,
        }[kind]
        expected = (r - np.mean(known[g])) / scale
      assert values[g, i] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["group", "batch", "centred"])
@pytest.mark.parametrize(
  "group", [[3.0], [None, None], [1.0, None], [0.1 + 0.2, 0.3, 0.3]]
)
def test_groups_without_spread_are_flat_and_never_nan(kind, group):
  values, flat = group_advantages([group], kind)
  assert values.tolist() == [[0.0] * len(group)]
  assert flat.tolist() == [True]


def test_an_unknown_kind_is_none_of_them():
  with pytest.raises(KeyError, match="grop"):
    group_advantages([[1.0]], "grop")
