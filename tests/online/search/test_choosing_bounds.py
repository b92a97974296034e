"""Choosing where a number is exactly on its bound."""

from types import SimpleNamespace

import pytest

from atlas_jax.online.search import choosing
from atlas_jax.online.search.choosing import Fresh
from atlas_jax.teaching.statistics import Interval

FLOOR = 0.875


def config(**changes):
  keys = {"non_degradation_floor": FLOOR, "require_proof": False, **changes}
  return SimpleNamespace(choosing=SimpleNamespace(**keys))


def fresh(index, gain, non_degradation, **counts):
  counts = {"pairs": 8, "samples": 8, **counts}
  return Fresh(index, 0.5, 0.5, gain, None, 0.5, non_degradation, **counts)


def test_the_floor_itself_is_met():
  seed = fresh(0, 0.0, 1.0)
  on, below = fresh(1, 0.1, FLOOR), fresh(2, 0.3, FLOOR - 0.125)
  assert choosing.pick([seed, on, below], FLOOR) is on
  assert choosing.pick([seed, below], FLOOR) is below
  assert choosing.pick([seed, fresh(3, 0.0, 1.0)], FLOOR) is seed
  twin = fresh(4, 0.1, FLOOR)
  assert choosing.pick([seed, twin, on], FLOOR) is on  # the earlier one
  untested = {"score_gain": None}
  assert list(choosing._doubts(config(), on, [], untested, [])) == []
  (reason,) = choosing._doubts(config(), below, [], untested, [])
  assert "75.0%" in reason


def test_of_the_test_split():
  def doubts(estimate, low, kept, **changes):
    arm = {"non_degradation_all": kept}
    test = {
      "score_gain": Interval(estimate, -1, 1),
      "accuracy_gain": Interval(estimate, low, 1),
      "evaluation": {"arms": [{"non_degradation_all": 0.0}, arm]},
    }
    best = fresh(1, 0.1, FLOOR)
    return list(choosing._doubts(config(**changes), best, [], test, []))

  assert doubts(0.1, 0.0, FLOOR) == []
  assert len(doubts(0.0, 0.0, FLOOR)) == 1
  assert len(doubts(0.1, 0.0, FLOOR, require_proof=True)) == 1
  assert doubts(0.1, 0.05, FLOOR, require_proof=True) == []
  (reason,) = doubts(0.1, 0.05, FLOOR - 0.125)
  assert "75.0%" in reason


@pytest.mark.parametrize(("kept", "arm"), [(0, 1), (3, 2)])
def test_harm_is_that_of_the_prompts_that_are_kept(kept, arm):
  def harm(high):
    good = {"gain": 0.5, "gain_low": 0.1, "gain_high": 0.9}
    arms = [good | {"non_degradation_all": 1.0} for _ in range(3)]
    arms[arm] |= {"gain": -0.3, "gain_low": -0.5, "gain_high": high}
    nothing = dict.fromkeys(
      ("test_score", "score_gain", "accuracy_gain", "mcnemar_p")
    )
    test = {"evaluation": {"arms": arms}, "pairs": 1, **nothing}
    both = [fresh(0, 0.0, 1.0), fresh(3, 0.1, 1.0)]
    why = [] if kept else ["why"]
    choice = choosing.decide(config(), both, [], both[1], test, why)
    assert choice.kept == kept
    return choice.harm

  assert harm(-0.1) == Interval(-0.3, -0.5, -0.1)
  assert harm(0.0) is None
