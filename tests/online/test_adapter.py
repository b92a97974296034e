"""What gepa is told: ids, gaps, and who is better than the parent."""

from types import SimpleNamespace

import pytest

from atlas_jax.config import PromptsConfig
from atlas_jax.data.problems import make_problem
from atlas_jax.online.search.gepa_adapter import (
  Acceptance,
  Loader,
  filled,
  make_adapter,
)
from atlas_jax.online.search.reflection import Memory
from atlas_jax.online.search.rollouts import Rollout

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
  ],
)
def test_gaps(scores, told):
  assert filled(rollouts(*scores)) == told


def test_ids_say_their_split():
  train, validation = Loader("train", [PROBLEM]), Loader("val", [PROBLEM])
  assert train.all_ids() == [f"train:{PROBLEM.id}"]
  assert validation.all_ids() == [f"val:{PROBLEM.id}"]
  assert [e.problem for e in train.fetch(train.all_ids())] == [PROBLEM]
  with pytest.raises(KeyError):
    train.fetch(validation.all_ids())


def judge(before, after):
  memory = Memory()
  proposal = SimpleNamespace(
    eval_before=SimpleNamespace(outputs=rollouts(*before)),
    eval_after=SimpleNamespace(outputs=rollouts(*after)),
    parent_program_ids=[0],
    candidate={"a": "new", "b": "same"},
  )
  state = SimpleNamespace(program_candidates=[{"a": "old", "b": "same"}])
  return Acceptance(memory).should_accept(proposal, state), memory.refused


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


def test_a_batch_of_one_problem_is_evaluated():
  jobs = []

  def evaluate(given):
    jobs.extend(given)
    return [rollouts(0.7)]

  runner = SimpleNamespace(evaluate=evaluate)
  checked = []
  adapter = make_adapter(runner, PromptsConfig(), checked.extend, 100)
  examples = Loader("validation", [PROBLEM])
  found = adapter.evaluate(examples.fetch(examples.all_ids()), {})
  assert found.scores == [0.7] and checked == jobs
  ((problems, split),) = [(job.problems, job.split) for job in jobs]
  assert (problems, split) == ((PROBLEM,), "validation")


def test_an_evaluation_of_nothing_has_no_scores():
  assert filled([]) == []
