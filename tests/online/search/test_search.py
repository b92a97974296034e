"""What gepa is told: gaps, splits, and who is better than the parent."""

import dataclasses
from types import SimpleNamespace

import pytest

from atlas_jax.config import PromptsConfig
from atlas_jax.data.problems import make_problem
from atlas_jax.online.calls.ledger import Amount, Ledger
from atlas_jax.online.search.config import ObjectivesConfig, OnlineConfig
from atlas_jax.online.search.files import SearchOver
from atlas_jax.online.search.rollouts import Rollout
from atlas_jax.online.search.search import Search, filled, perfect
from tests.online.opened_run import opened

PROBLEM = make_problem("1+1=?", "2")


def rollout(score):
  return Rollout(PromptsConfig(), PROBLEM, "train", 0, score=score)


def rollouts(*scores):
  return [rollout(s) for s in scores]


@pytest.mark.parametrize(
  ("scores", "told"),
  [
    ((1.0, 0.0), [1.0, 0.0]),
    # The gap does not move the mean.
    ((1.0, None, 0.0), [1.0, 0.5, 0.0]),
    # Mostly no answer: the one that came proves nothing.
    ((1.0, None, None), [1.0, 0.0, 0.0]),
    ((None,), [0.0]),
    ((), []),
  ],
)
def test_gaps(scores, told):
  assert filled(rollouts(*scores)) == told


PARTS = SimpleNamespace(config=OnlineConfig(), journal=None)


def judge(before, after):
  proposal = SimpleNamespace(
    eval_before=SimpleNamespace(outputs=rollouts(*before)),
    eval_after=SimpleNamespace(outputs=rollouts(*after)),
    parent_program_ids=[0],
    candidate={"a": "new", "b": "same"},
  )
  state = SimpleNamespace(program_candidates=[{"a": "old", "b": "same"}])
  reflector = SimpleNamespace(refused=[])
  judged = Search(None, PARTS, reflector, None)
  accepted = judged.should_accept(proposal, state)
  return accepted, reflector.refused


@pytest.mark.parametrize(
  ("before", "after", "accepted"),
  [
    ((0.0, 1.0), (1.0, 1.0), True),
    ((0.5, 0.5), (0.5, 0.5), False),
    # Where the child has no score the parent's does not count either.
    ((1.0, 0.0, 0.0), (None, 0.5, 0.0), True),
    ((None, 0.5, 0.5), (1.0, 0.5, 0.4), False),
    # Half of the pairs must be there.
    ((0.0, 0.0, 0.0), (1.0, None, None), False),
    ((0.0,), (None,), False),
    ((0.0,), (0.5,), True),
    ((0.0, 0.0), (0.5, None), True),
  ],
)
def test_acceptance(before, after, accepted):
  verdict, refused = judge(before, after)
  assert verdict is accepted
  assert [name for name, _, _ in refused] == ([] if accepted else ["a"])


def test_a_rejected_child_is_remembered_with_its_scores():
  _, ((name, text, why),) = judge((0.5, 0.5), (0.25, 0.5))
  assert (name, text) == ("a", "new")
  assert "0.75" in why and "scored 1" in why


def test_what_breaks_at_an_example_escapes_gepa():
  """It would go on to the next round, and say so to nobody."""
  one = Search(None, PARTS, None, None)
  examples = {"teacher": [{"rollout": "none"}]}
  with pytest.raises(BaseException) as caught:
    one.propose_new_texts({}, examples, ["teacher"])
  assert not isinstance(caught.value, Exception)
  assert isinstance(caught.value.__cause__, AttributeError)


@pytest.mark.parametrize(
  ("weights", "score"),
  [
    # accuracy, non-degradation, completion, efficiency
    ((1.0, 1.0, 0.0, 0.5), 0.8),
    ((3.0, 0.0, 1.0, 0.0), 1.0),
    ((0.0, 0.0, 0.0, 1.0), 1.0),
  ],
)
def test_the_score_from_which_on_nothing_is_to_learn(weights, score):
  names = ("accuracy", "non_degradation", "completion", "efficiency")
  found = perfect(ObjectivesConfig(**dict(zip(names, weights, strict=True))))
  assert score - 1e-8 < found <= score
  assert (found < score) is any(weights[:3])


def test_a_round_that_began_is_not_asked_for_its_budget_again(tmp_path):
  # Room for the seed, the end and two rounds.
  caps = {"caps__calls": 370 + 2 * 46}
  with opened(tmp_path, "http://127.0.0.1:9", **caps) as r:
    seed = r.budget.seed.total()

    def begins(number, paid):
      ledger = Ledger(r.config.caps, spent=Amount(paid))
      budget = dataclasses.replace(r.budget, ledger=ledger)
      one = Search(r.sets, r.rollouts, r.reflector, budget)
      state = SimpleNamespace(i=number - 2, program_candidates=[])
      return one._begin_round(state)

    assert begins(1, seed) is begins(2, seed + 46) is False
    over = seed + 2 * 46
    # By another process, which goes through all of them again.
    assert begins(1, over) is begins(2, over) is False
    with pytest.raises(SearchOver, match=r"config\.caps\.calls leaves 0"):
      begins(3, over)
    # The last of config.search.max_rounds.
    with pytest.raises(SearchOver, match="max_rounds=4 are done"):
      begins(5, seed)
    r.journal.ended = "it was"
    with pytest.raises(SearchOver, match="it was"):
      r.journal.read("anything that is new")
