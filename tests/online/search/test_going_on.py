"""A run that stopped because of failures: the same command goes on."""

import itertools

import pytest
from aiohttp import web

from atlas_jax.data.problems import make_problem
from atlas_jax.data.splits import Splits
from atlas_jax.directory import RunError
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search import optimize
from atlas_jax.online.search.config import resolve
from atlas_jax.online.search.reflection import SearchFailed
from atlas_jax.online.search.rollouts import RolloutError
from tests.online import small_world
from tests.online.stub_server import StubServer
from tests.online.whole_runs import read, run


def test_an_overloaded_server_stops_a_run_and_not_for_good(tmp_path):
  """Failures and answers mixed: most failures are not the last of all."""
  config = small_world.tree(tmp_path, "", validation=30)
  config.student.retries = 0
  asked = itertools.count()

  def overloaded(messages):
    guided = messages[-1]["content"].startswith("GUIDED")
    if guided and next(asked) % 4 != 3:
      return web.Response(status=503)
    return small_world.answer(messages)

  with StubServer(overloaded) as stub:
    for role in ("student", "teacher", "reflection_model"):
      config[role].url = stub.url

    def start():
      optimize.optimize(resolve(config), tmp_path / "run", {})

    with pytest.raises(RolloutError, match="17 of 30 problems got no answer"):
      start()
    good = len(stub.good)
    stub.answer = small_world.answer
    start()
    asked = [c.body["messages"][0]["content"] for c in stub.good]
  # What was answered is not asked again.
  assert len(asked[:good]) == 30 * 3 + 13
  seed = [p for p in asked if p.endswith("HINT think") and " 20" in p]
  # On validation, and once more for the choosing.
  assert len(seed) == 2 * 30
  candidates = read(tmp_path / "run" / "candidates.json")
  assert [len(c["scores"]) for c in candidates] == [30, 30]


@pytest.mark.parametrize(
  "reply", [lambda: {"content": None}, lambda: web.Response(status=503)]
)
def test_a_reflection_model_without_words_stops_a_run_and_not_for_good(
  tmp_path, reply
):
  def silent(messages):
    if messages[-1]["content"].startswith("You improve"):
      return reply()
    return small_world.answer(messages)

  changes = {"reflection_model__retries": 0, "reflection__attempts": 1}
  with StubServer(silent) as stub:
    # One a round: the streak goes over rounds, whose evaluations pass.
    with pytest.raises(SearchFailed, match="3 calls of the reflection model"):
      run(tmp_path, stub.url, reflection__max_failures=3, **changes)
    before = len(stub.calls)
    with pytest.raises(SearchFailed, match="3 calls of the reflection model"):
      run(tmp_path, stub.url, reflection__max_failures=3, **changes)
    assert len(stub.calls) == before + 3
    stub.answer = small_world.answer
    workdir = run(tmp_path, stub.url, reflection__max_failures=3, **changes)
  assert (workdir / "report" / "optimize.json").exists()


@pytest.mark.parametrize(
  "changed",
  [
    {"question": "1 +  1"},  # of the same words: the same id
    {"verifier": "reasoning_gym"},
    {"meta": {"kind": "b", "entry": {1, 2}}},
  ],
)
def test_all_of_a_problem_must_be_as_it_was(tmp_path, changed):
  facts = {"question": "1 + 1", "answer": "2", "meta": {"kind": "a"}}
  before, after = make_problem(**facts), make_problem(**facts | changed)
  assert before.id == after.id
  sets = Splits([before], [], [])
  with Record() as record:
    for _ in range(2):
      optimize._check_problems(sets, record, tmp_path)
    with pytest.raises(RunError, match=r"began with \(in train\)"):
      optimize._check_problems(Splits([after], [], []), record, tmp_path)
