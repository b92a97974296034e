"""A run that stopped because of failures: the same command goes on."""

import pytest
from aiohttp import web

from atlas_jax.data.problems import make_problem
from atlas_jax.data.splits import Splits
from atlas_jax.directory import RunError
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search import optimize
from atlas_jax.online.search.reflection import SearchFailed
from tests.online import small_world
from tests.online.stub_server import StubServer
from tests.online.whole_runs import run


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
