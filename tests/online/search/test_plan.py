"""What the parts of a run take at most, and who may use the caps."""

import dataclasses

import pytest

from atlas_jax.online.calls.ledger import Amount, Ledger
from atlas_jax.online.search.files import SearchOver
from atlas_jax.online.search.plan import BudgetTooSmall, plan
from tests.online import small_world
from tests.online.opened_run import evaluated, opened, playing
from tests.online.stub_server import StubServer
from tests.online.whole_runs import read, run

NOBODY = "http://127.0.0.1:9"
ALL = {"student_baseline", "student_probe", "teacher", "student_taught"}


def sizes(folder, **changes):
  with opened(folder, NOBODY, **changes) as r:
    return r.budget


@pytest.mark.parametrize(
  ("evolve", "anew"),
  [
    (("teacher",), 2),
    (("student_taught",), 1),
    (("student_taught", "student_probe"), 3),
  ],
)
def test_by_hand(tmp_path, evolve, anew):
  # 12 train problems in minibatches of 4, 10 validation, 40 test; one fresh
  # sample of the seed and 3 others; the probe is greedy.
  found = sizes(tmp_path, search__evolve=evolve, reflection__attempts=3)
  assert found.seed == dict.fromkeys(ALL, 10)
  assert found.round.total() == 4 * 4 + (4 + 10) * anew + 3
  assert found.round["reflection"] == 3
  sampled = anew - ("student_probe" in evolve)
  assert found.end.total() == 10 * (3 + 3 * sampled) + 40 * (4 + anew)


AGENT = {
  "agent__kind": "python",
  "agent__python__target": "tests.online.small_world:student",
}


@pytest.mark.parametrize(
  ("changes", "validation", "test"),
  [
    # What is greedy has no fresh samples.
    ({"episode__probe_temperature": 0.5, "choosing__best_of": 1}, 4 + 2, 6),
    ({"episode__student_temperature": 0.0, "choosing__best_of": 1}, 2 + 2, 6),
    ({"choosing__fresh_samples": 0}, 0, 6),
    # Choosing meets no more than the search may accept.
    ({"search__max_candidates": 2}, 3 + 1 * 2, 6),
    # An agent is not probed, and never greedy.
    (AGENT | {"episode__student_temperature": 0.0}, 3 + 3 * 2, 3 + 2),
  ],
)
def test_the_end_by_hand(tmp_path, changes, validation, test):
  found = sizes(tmp_path, **changes)
  assert found.end.total() == 10 * validation + 40 * test
  asked = ALL - {"student_probe"} if "agent__kind" in changes else ALL
  assert found.seed == dict.fromkeys(asked, 10)


def test_no_round_takes_more_than_it_is_said_to(tmp_path):
  evolve = {"search__evolve": ("student_probe", "teacher")}
  with playing(tmp_path, small_world.answer, **evolve) as (r, stub):
    sets, parent = r.sets, r.config.prompts
    asked = r.budget.round
    said = asked.total() - asked["reflection"]
    evaluated(r, sets.validation, parent)
    assert len(stub.calls) == r.budget.seed.total()
    for n in range(3):  # the minibatches of one epoch
      minibatch = sets.train[4 * n : 4 * n + 4]
      child = dataclasses.replace(
        parent,
        student_probe=f"OUTLINE {n} {{question}}",
        teacher=f"TEACH {{question}} PLAN {{probe}} {n}",
      )
      before = len(stub.calls)
      evaluated(r, minibatch, parent, split="train")
      evaluated(r, minibatch, child, split="train")
      evaluated(r, sets.validation, child)
      # Equal prompts are sent once: the stub's teacher says little.
      assert said - 22 <= len(stub.calls) - before <= said
      parent = child


def rows(text: str) -> dict[str, list[float]]:
  """name -> (calls, tokens, dollars) of a plan."""
  found = {}
  for line in text.splitlines()[2:7]:
    *name, calls, tokens, dollars = line.replace(",", "").split()
    found[" ".join(name)] = [int(calls), int(tokens), float(dollars)]
  return found


def test_the_dry_run_sends_nothing_and_bounds_the_run(tmp_path, finished):
  workdir, calls = finished
  with StubServer(small_world.answer) as stub:
    text = plan(small_world.config(tmp_path, stub.url), {})
    assert not stub.calls and not (tmp_path / "run").exists()
  found = rows(text)
  # As by hand: a round of 46 calls, choosing of 90 and test of 240.
  assert [row[0] for row in found.values()] == [40, 46, 184, 330, 554]
  costs = read(workdir / "costs.json")
  whole = [sum(x[name] for x in costs) for name in ("calls", "tokens")]
  assert whole[0] == calls <= found["whole run"][0]
  assert whole[1] <= found["whole run"][1]
  assert sum(x["dollars"] for x in costs) <= found["whole run"][2]


def test_tokens_and_dollars_of_a_call_by_hand(tmp_path):
  config = small_world.config(
    tmp_path,
    NOBODY,
    search__evolve=("student_taught",),
    reflection__attempts=1,
    sizes__train=1,
    sizes__validation=1,
    sizes__test=1,
    sizes__minibatch=1,
  )
  seed = rows(plan(config, {}))["seed on validation"]
  # Of a message: 128 tokens of a template, its role and 8, its text and 8.
  question, template, said = len("1000+1100=?"), 128 + 4 + 8 + 8, 30
  prompts = [
    len("SOLVE {question}") + question,
    len("OUTLINE {question}") + question,
    # The plan that it reads has 30 tokens at most.
    len("TEACH {question} PLAN {probe}") + question + 30,
    # A template that evolves may come to have 4000 characters.
    4000 + question + 30,
  ]
  read = sum(prompts) + 4 * template
  assert seed[1] == read + 4 * said
  assert seed[2] == pytest.approx((read * 1 + 4 * said * 2) / 1e6, abs=1e-4)


@pytest.mark.parametrize(
  ("caps", "rounds"),
  [
    ({}, 4),
    ({"caps__calls": 370 + 46}, 1),
    ({"caps__calls": 370 + 3 * 46 - 1}, 2),
    # A bound, and no ground to refuse the run.
    ({"caps__tokens": 1000}, 0),
    ({"caps__dollars": 0.001}, 0),
  ],
)
def test_the_dry_run_says_for_how_many_rounds_it_is_enough(
  tmp_path, caps, rounds
):
  text = plan(small_world.config(tmp_path, NOBODY, **caps), {})
  assert f"enough for {rounds} of 4 rounds at the least" in text


def test_models_without_a_price_and_an_agents_price(tmp_path):
  none = {"price_in": None, "price_out": None}
  changes = {f"teacher__{key}": value for key, value in none.items()}
  text = plan(small_world.config(tmp_path, NOBODY, **changes), {})
  assert "unpriced: teacher; say price_in and price_out" in text
  agent = AGENT | {"agent_dollars_per_call": 0.25}
  for role in ("teacher", "reflection_model"):
    agent |= {f"{role}__price_in": 0.0, f"{role}__price_out": 0.0}
  text = plan(small_world.config(tmp_path, NOBODY, **agent), {})
  assert rows(text)["seed on validation"][2] == 0.25 * 20


def test_a_budget_without_a_round_is_refused_before_any_call(tmp_path):
  with StubServer(small_world.answer) as stub:
    # Seed 40, round 46, choosing 10 * (1 + 2 * 4), test 40 * (2 + 2 * 2).
    need = 40 + 46 + 90 + 240
    with pytest.raises(BudgetTooSmall, match=rf"they take at most {need}"):
      run(tmp_path, stub.url, caps__calls=need - 1)
    assert not stub.calls
    with pytest.raises(BudgetTooSmall, match=r"(?s)calls=415.*one round"):
      plan(small_world.config(tmp_path, stub.url, caps__calls=need - 1), {})
    workdir = run(tmp_path, stub.url, caps__calls=need)
    assert len(stub.calls) <= need
  ended = read(workdir / "report" / "optimize.json")["ended"]
  assert ended.startswith("config.caps.calls leaves")


def used(r, amount: Amount, minutes=0.0):
  """A run whose processes paid so much, in so long a time."""
  r.ledger = Ledger(r.config.caps, spent=amount, seconds=60 * minutes)
  r.budget = dataclasses.replace(r.budget, ledger=r.ledger)


# A round takes 46 calls, the end 330.
@pytest.mark.parametrize(
  ("cap", "enough"),
  [
    # 100 calls are made: 476 in all.
    ("calls", 476),
    # As many each at the mean of 7 tokens, a quarter more for what is to come.
    ("tokens", 700 + 1.25 * 7 * 376),
    ("dollars", 0.5 + 1.25 * 0.005 * 376),
    ("minutes", 10 + 1.25 * 0.1 * 376),
  ],
)
@pytest.mark.parametrize("fits", [True, False])
def test_a_round_begins_where_it_fits_beside_the_end(
  tmp_path, cap, enough, fits
):
  limit = enough * (1.01 if fits else 0.99)
  limit = round(limit) if cap in ("calls", "tokens") else limit
  with opened(tmp_path, NOBODY, **{f"caps__{cap}": limit}) as r:
    used(r, Amount(100, 700, 10**12 // 2), minutes=10)
    if not fits:
      with pytest.raises(SearchOver, match=rf"config.caps.{cap} leaves"):
        r.budget.begin_round(r.ledger.used())
    else:
      r.budget.begin_round(r.ledger.used())
    kept = r.ledger._kept
  assert kept.calls == 330
  assert kept.tokens == pytest.approx(1.25 * 7 * 330)
  assert kept.dollars == pytest.approx(1.25 * 0.005 * 330)
  assert kept.minutes == pytest.approx(1.25 * 0.1 * 330, rel=1e-3)


def test_what_is_not_known_or_costs_nothing_is_not_kept(tmp_path):
  """Before the first call only calls are known; models may be free."""
  caps = {"tokens": 100_000, "calls": 5000, "minutes": 9.0, "dollars": 0.001}
  caps = {f"caps__{name}": most for name, most in caps.items()}
  with opened(tmp_path, NOBODY, **caps) as r:
    r.budget.keep()
    kept = r.ledger._kept
    assert (kept.calls, kept.tokens, kept.minutes) == (330, None, None)
    used(r, Amount(100, 700, 0))
    r.budget.begin_round(r.ledger.used())
    assert r.ledger._kept.dollars == 0


def test_a_round_that_goes_on_keeps_what_it_began_with(tmp_path):
  """Not what the mean by now would give: part of it is paid already."""
  with opened(tmp_path, NOBODY, caps__tokens=100_000) as r:
    used(r, Amount(5, 500, 0))
    before = r.ledger.used()
    used(r, Amount(100, 90_000, 0))
    r.budget.begin_round(before)
    assert r.ledger._kept.tokens == 1.25 * 330 * 100
