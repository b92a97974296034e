"""What the parts of a run take, beside what they did take."""

import dataclasses

import pytest

from atlas_jax.online.budget import test_jobs as jobs_of_test
from atlas_jax.online.rollouts import Job
from atlas_jax.online.spend import Amount
from tests.online import small_world
from tests.online.stub_server import Faults, StubServer
from tests.online.test_rollouts import better, broken_for, opened


@pytest.mark.parametrize("update", ["round_robin", "all"])
def test_no_round_takes_more_than_it_is_said_to(tmp_path, update):
  evolve = ("student_probe", "teacher")
  changes = {"search__evolve": evolve, "search__update": update}
  with (
    StubServer(small_world.answer) as stub,
    opened(tmp_path, stub.url, **changes) as run,
  ):
    budget, sets, seed = run.budget, run.budget.sets, run.config.prompts
    said = budget.round().calls
    run.rollouts.evaluate([Job(seed, sets.validation, "validation")])
    parent, children = seed, []
    for n in range(3):  # the minibatches of one epoch
      assert budget.round().calls == said
      minibatch = sets.train[4 * n : 4 * n + 4]
      child = dataclasses.replace(
        parent,
        student_probe=f"OUTLINE {n} {{question}}",
        teacher=f"TEACH {{question}} PLAN {{probe}} {n}",
      )
      before = len(stub.calls)
      run.rollouts.evaluate([Job(parent, minibatch, "train")])
      run.rollouts.evaluate([Job(child, minibatch, "train")])
      run.rollouts.evaluate([Job(child, sets.validation, "validation")])
      made = len(stub.calls) - before + budget.reflection().calls
      # Equal prompts are sent once: the stub's teacher says little.
      assert said - 22 <= made <= said
      children.append(child)
      parent = child


def test_a_round_counts_unaided_solutions_that_failed(tmp_path):
  with (
    StubServer(broken_for("2003+", "SOLVE")) as stub,
    opened(tmp_path, stub.url, student__retries=0) as run,
  ):
    before = run.budget.round().calls
    sets = run.budget.sets
    run.rollouts.evaluate(
      [Job(run.config.prompts, sets.validation, "validation")]
    )
    assert run.budget.round().calls == before + 1


def test_nothing_but_calls_is_set_aside_until_something_was_answered(tmp_path):
  changes = {"caps__tokens": 100_000, "caps__calls": 5000}
  with opened(tmp_path, "http://127.0.0.1:9", **changes) as run:
    for answered in (False, True):
      for _ in range(20):
        run.ledger.charge(
          *("student_baseline", "m"), spent=Amount(1), answered=answered
        )
      run.budget.hold([run.config.prompts])
      assert (run.ledger.room().tokens < 100_000) is answered


def test_a_round_counts_the_longest_questions(tmp_path):
  with opened(tmp_path, "http://127.0.0.1:9") as run:
    before = run.budget.round()
    sets = run.budget.sets
    long = dataclasses.replace(sets.train[-1], question="e" * 700)
    run.budget.sets = dataclasses.replace(sets, train=(*sets.train[:-1], long))
    after = run.budget.round()
  assert after.calls == before.calls
  # Six prompts of one problem: unaided, probe, and two of parent and child.
  assert after.tokens - before.tokens == pytest.approx(
    6 * (700 - len("1000+1100=?")) / 3.5, abs=6
  )


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_attempts_that_cost_nothing_do_not_lower_the_mean(tmp_path, share):
  faults = Faults(seed=5, share=share, kinds=("429",), in_a_row=6)
  # Bounds far from what is used, as of models that think.
  changes = {
    **{f"{role}__retries": 12 for role in ("student", "teacher")},
    **{
      f"episode__max_{x}_tokens": 2000
      for x in ("solution", "teaching", "probe")
    },
  }
  with (
    StubServer(small_world.answer, faults=faults if share else None) as stub,
    opened(tmp_path, stub.url, **changes) as run,
  ):
    problems = run.budget.sets.train + run.budget.sets.validation
    run.rollouts.evaluate([Job(run.config.prompts, problems, "validation")])
    lines = {x.role: x for x in run.ledger.snapshot().lines}
    assert all(x.answered_calls == 22 for x in lines.values())
    assert any(x.spent.calls > 22 for x in lines.values()) == (share > 0)
    jobs = jobs_of_test([run.config.prompts, better(run)], run.budget.sets)
    need = run.budget.evaluation(jobs)
    before = run.ledger.snapshot()
    run.rollouts.evaluate(jobs)
    after = run.ledger.snapshot()
  assert after.tokens - before.tokens <= need.tokens
  assert after.dollars - before.dollars <= need.dollars
  assert need.tokens < 2 * (after.tokens - before.tokens)
