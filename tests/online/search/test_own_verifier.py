"""A verifier of the user's own in a whole optimisation."""

import pytest

from atlas_jax.online.search.rollouts import RolloutError
from tests.online import small_world
from tests.online.stub_server import StubServer
from tests.online.whole_runs import read, run

TEXT = """
def shares(question, gold, response):
  return 0.75 if f"<solution>{gold}</solution>" in response else 0.25


def raises(question, gold, response):
  return gold.nothing
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(TEXT)
  return path


def test_shares_are_what_the_search_looks_at(tmp_path, file):
  with StubServer(small_world.answer) as server:
    run(tmp_path, server.url, data__verifier=f"{file}:shares")
  facts = read(tmp_path / "run" / "report" / "optimize.json")
  assert facts["kept"] == 1
  assert facts["accuracy_gain"]["estimate"] == 0.25
  arms = {a["name"]: a["accuracy"] for a in facts["evaluation"]["arms"]}
  assert set(arms.values()) == {0.5, 0.75}


def test_one_that_always_fails_ends_the_run_and_says_why(tmp_path, file):
  with (
    StubServer(small_world.answer) as server,
    pytest.raises(RolloutError) as caught,
  ):
    run(tmp_path, server.url, data__verifier=f"{file}:raises")
  says = f"'str' object has no attribute 'nothing' ({file}:7)"
  assert says in str(caught.value)
  # The seed's first evaluation, and no more.
  assert "none of 10 problems could be judged" in str(caught.value)
