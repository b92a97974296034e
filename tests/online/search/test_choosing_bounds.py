"""Choosing where a number is exactly on its bound."""

from types import SimpleNamespace

import pytest

from atlas_jax.config import PromptsConfig
from atlas_jax.online.search import choosing
from atlas_jax.online.search.choosing import Fresh
from atlas_jax.online.search.files import Candidate
from atlas_jax.teaching.statistics import Interval

FLOOR = 0.875


def config(**changes):
  keys = {"non_degradation_floor": FLOOR, "require_proof": False, **changes}
  return SimpleNamespace(choosing=SimpleNamespace(**keys))


def candidate(index, prompts=None):
  scores = {"a": 0.75}
  prompts = prompts or PromptsConfig()
  return Candidate(index, (), 0, prompts, 0.5, scores, 1, 1, 0.0)


def fresh(index, gain, non_degradation, **counts):
  counts = {"pairs": 8, "judged": 8, "samples": 8, **counts}
  return Fresh(index, 0.5, 0.5, gain, None, 0.5, non_degradation, **counts)


def test_the_floor_itself_is_met():
  seed = fresh(0, 0.0, 1.0)
  on, below = fresh(1, 0.1, FLOOR), fresh(2, 0.3, FLOOR - 0.125)
  assert choosing.pick([seed, on, below], FLOOR) is on
  assert choosing.pick([seed, below], FLOOR) is below
  assert choosing.pick([seed, fresh(3, 0.0, 1.0)], FLOOR) is seed
  twin = fresh(4, 0.1, FLOOR)
  assert choosing.pick([seed, twin, on], FLOOR) is on  # the earlier one
  assert choosing._doubts(config(), on, seed, []) == []
  (reason,) = choosing._doubts(config(), below, seed, [])
  assert "75.0%" in reason


def test_of_the_test_split():
  def doubts(estimate, low, kept, **changes):
    arm = {"non_degradation_all": kept}
    test = {
      "score_gain": Interval(estimate, -1, 1),
      "accuracy_gain": Interval(estimate, low, 1),
      "evaluation": {"arms": [{"non_degradation_all": 0.0}, arm]},
    }
    return choosing._doubts_of_test(config(**changes), test)

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


@pytest.mark.parametrize(("n", "samples"), [(2, 8), (0, 4)])
@pytest.mark.parametrize("missing", [0, 1])
def test_half_of_the_samples_is_enough(n, samples, missing):
  """The child has half of its samples, or one less."""
  prompts = [PromptsConfig(), PromptsConfig(teacher="{question} 2")]
  problems = tuple(SimpleNamespace(id=x) for x in "abcd")
  asked = []

  def rollout(problem, replicate, score):
    objectives = {"accuracy": 1.0, "non_degradation": 1.0}
    return SimpleNamespace(
      problem=problem, replicate=replicate, score=score, objectives=objectives
    )

  left = samples // 2 - missing

  def known(job):
    nonlocal left
    asked.append((prompts.index(job.prompts), job.replicate))
    made = []
    for problem in problems:
      score = 0.25
      if job.prompts is prompts[1]:
        score, left = (0.5 if left > 0 else None), left - 1
      made.append(rollout(problem, job.replicate, score))
    return made

  def evaluate(jobs, needed):
    assert needed == prompts[0]
    return [known(job) for job in jobs]

  candidates = [candidate(i, p) for i, p in enumerate(prompts)]
  found, dropped = choosing.score_again(
    config(fresh_samples=n, best_of=1),
    SimpleNamespace(evaluate=evaluate),
    SimpleNamespace(validation=problems),
    SimpleNamespace(candidates=candidates, best=lambda n: candidates[-n:]),
  )
  replicates = [0] if n == 0 else [1, 2]
  assert asked == [(i, r) for i in (0, 1) for r in replicates]
  assert [f.candidate for f in found] == [0, *([] if missing else [1])]
  assert len(dropped) == missing
  if not missing:
    child = found[1]
    assert (child.judged, child.pairs) == (samples // 2, samples // 2)
    assert (child.fresh_score, child.gain) == (0.5, 0.25)
    assert child.samples == samples
    # Picked by 0.75 on problem a; without fresh samples no gap is known.
    assert child.gap == (0.25 if n else None)
