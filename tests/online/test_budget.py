"""What the parts of a run take, beside what they did take."""

import contextlib
import dataclasses

import pytest

from atlas_jax.online.calls.spend import PICO, Amount
from atlas_jax.online.search.budget import (
  Price,
  SearchOver,
  Sets,
  choosing_jobs,
)
from atlas_jax.online.search.budget import test_jobs as jobs_of_test
from atlas_jax.online.search.rollouts import Job
from tests.online import small_world
from tests.online.opened_run import better, broken_for, opened
from tests.online.stub_server import Faults, StubServer


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


def test_a_price_by_hand():
  price = Price(per_million=(3.0, 5.0), per_call=0.25)
  # 0.5 million at 3, 2 million at 5, and two calls at a quarter.
  assert price.pico(2, 500_000, 2_000_000) == 12 * PICO
  assert Price().pico(9, 500_000, 2_000_000) == 0


def test_models_that_cost_nothing_are_not_stopped_by_dollars(tmp_path):
  changes = {"caps__dollars": 0.001, "caps__calls": 5000}
  with opened(tmp_path, "http://127.0.0.1:9", **changes) as run:
    run.budget.prices = dict.fromkeys(run.budget.prices, Price())
    assert run.budget.round().pico == 0
    assert run.budget.rounds() == run.config.search.max_rounds
    assert run.budget.too_small() is None
    run.budget.check(run.budget.round(), "a round")


def test_tokens_of_a_call_by_hand(tmp_path):
  with opened(tmp_path, "http://127.0.0.1:9") as run:
    budget, most = run.budget, run.config.episode.max_solution_tokens
    budget.prices = {"student_baseline": Price((7.0, 2e6 / most))}
    # Two prompts of 10 and 11 bytes: 21 / 3.5 and 16 of the template each.
    calls = [("student_baseline", 10), ("student_baseline", 11)]
    found = budget._cost(calls)
    assert found.tokens == 6 + 2 * 16 + 2 * most
    dollars = (6 + 2 * 16) * 7 / 1e6 + 4
    assert found.pico / PICO == pytest.approx(dollars, rel=1e-9)


@pytest.mark.parametrize(("need", "fits"), [(40, True), (41, False)])
def test_what_takes_all_that_is_left_begins(tmp_path, need, fits):
  with opened(tmp_path, "http://127.0.0.1:9", caps__calls=40) as run:
    run.budget.free()
    with contextlib.nullcontext() if fits else pytest.raises(SearchOver):
      run.budget.check(Amount(need), "it")


def test_fresh_samples_are_numbered_from_one():
  sets = Sets((), ("v",), ("t",))
  jobs = choosing_jobs(["a", "b"], sets, 2)
  assert [(job.prompts, job.replicate) for job in jobs] == [
    *(("a", 1), ("a", 2), ("b", 1), ("b", 2))
  ]
  assert {job.split for job in jobs} == {"validation"}
  assert choosing_jobs(["a", "b"], sets, 0) == []


@pytest.mark.parametrize(("update", "n"), [("round_robin", 1), ("all", 2)])
def test_reflections_of_a_round(tmp_path, update, n):
  evolve = ("student_probe", "teacher")
  changes = {"search__evolve": evolve, "search__update": update}
  changes |= {"reflection__attempts": 3}
  with opened(tmp_path, "http://127.0.0.1:9", **changes) as run:
    assert run.budget.reflection().calls == 3 * n


def parts(run):
  """(calls of the seed and the choosing, of one round)."""
  plan = run.budget.plan()
  first = plan["seed on validation"].calls + plan["choosing and test"].calls
  return first, plan["one round"].calls


def test_rounds_that_a_cap_lasts_for(tmp_path):
  with opened(tmp_path, "http://127.0.0.1:9") as run:
    first, one = parts(run)
  for calls, rounds, small in (
    (first + one - 1, 0, True),
    (first + one, 1, False),
    (first + 2 * one, 2, False),
  ):
    with opened(tmp_path, "http://127.0.0.1:9", caps__calls=calls) as run:
      assert run.budget.rounds() == rounds
      said = run.budget.too_small()
      assert (said is not None) is small
      if small:
        assert f"config.caps.calls={calls} is too small" in said
        assert f"they take at most {first + one}" in said


def test_minutes_are_kept_by_the_calls_of_choosing(tmp_path):
  changes = {"caps__minutes": 60.0, "search__max_rounds": 3}
  with opened(tmp_path, "http://127.0.0.1:9", **changes) as run:
    first, one = parts(run)
    choosing = run.budget.plan()["choosing and test"].calls
    run.budget.hold([run.config.prompts])
    kept = 60 * 60 * choosing / (first + 3 * one)
    assert 0 < kept < 3600
    left = run.ledger.room().seconds
    assert left == pytest.approx(3600 - kept, abs=60)
    run.budget.free()
    assert run.ledger.room().seconds > left


def test_choosing_meets_no_more_than_the_search_may_accept(tmp_path):
  changes = {"choosing__best_of": 3, "search__max_candidates": 2}
  with opened(tmp_path, "http://127.0.0.1:9", **changes) as run:
    prompts = run.budget._most()
    assert prompts[0] == run.config.prompts
    assert len(prompts) == len(set(prompts)) == 2


def test_a_model_without_a_price_costs_no_dollars(tmp_path):
  with opened(tmp_path, "http://127.0.0.1:9") as run:
    run.budget.prices = dict.fromkeys(run.budget.prices)
    assert run.budget.round().pico == 0 < run.budget.round().tokens


def test_rounds_that_dollars_last_for(tmp_path):
  with opened(tmp_path, "http://127.0.0.1:9") as run:
    first, one = parts(run)
  change = {"caps__dollars": (first + 2.5 * one) / 1000}
  with opened(tmp_path, "http://127.0.0.1:9", **change) as run:
    price = Price(per_call=0.001)
    run.budget.prices = dict.fromkeys(run.budget.prices, price)
    assert 0 < run.budget.round().dollars < 1
    assert run.budget.rounds() == 2
