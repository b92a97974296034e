"""Verdicts outlive the process that was the first to give them."""

import contextlib

import pytest

from atlas_jax.confined import Late
from atlas_jax.data.problems import make_problem
from atlas_jax.online.calls.record import Record
from atlas_jax.online.calls.verdicts import RecordedChecker
from atlas_jax.online.search import opening
from atlas_jax.online.search.rollouts import Job
from atlas_jax.teaching import answers
from tests.online import small_world
from tests.online.stub_server import StubServer

PROBLEM = make_problem("1+1", "2")
SAID = (PROBLEM, "<solution>2</solution>", "stop")


@pytest.fixture
def busy(monkeypatch):
  """Comparisons are late for as long as it is not empty; each takes one."""
  left, right = [], answers.AnswerChecker._right

  def late(self, problem, answer):
    if left:
      left.pop()
      raise Late()
    return right(self, problem, answer)

  monkeypatch.setattr(answers.AnswerChecker, "_right", late)
  return left


@contextlib.contextmanager
def checking(path):
  with Record(path) as record, RecordedChecker(record.verdicts) as checker:
    yield record, lambda *items: [v.status for v in checker.check_many(items)]


def test_one_that_is_late_twice_stays_without_a_verdict(tmp_path, busy):
  path = tmp_path / "record.sqlite"
  busy += [1] * 2
  with checking(path) as (_, check):
    assert check(SAID, SAID) == ["verifier_timeout"] * 2
    cut = (PROBLEM, "so 2", "length")
    assert check(SAID, cut) == ["verifier_timeout", "truncated"]
  with checking(path) as (_, check):
    assert check(SAID) == ["verifier_timeout"]
    other = (make_problem("1 plus 1", "3"), *SAID[1:])
    assert check(other) == ["wrong"]


def test_one_that_is_late_once_is_judged(tmp_path, busy):
  busy += [1]
  with checking(tmp_path / "record.sqlite") as (_, check):
    assert check(SAID) == ["correct"]
    busy += [1] * 9
    assert check(SAID) == ["correct"]  # as before
  with checking(tmp_path / "record.sqlite") as (_, check):
    assert check(SAID) == ["correct"]


@pytest.mark.parametrize("earlier", [True, False])
def test_what_an_evaluation_was_the_first_to_lack_is_judged_again(
  tmp_path, busy, earlier
):
  path = tmp_path / "record.sqlite"
  busy += [1] * 2
  with checking(path) as (_, check):  # it was killed then
    check(SAID)
  with checking(path) as (record, check):
    record.evaluation_begins()
    check(SAID)
    if earlier:
      record.evaluation_begins()
      check(SAID)
    record.forget_evaluation()
  with checking(path) as (_, check):
    assert check(SAID) == ["verifier_timeout" if earlier else "correct"]


def test_a_replay_scores_as_the_run_did(tmp_path, busy):
  path = tmp_path / "record.sqlite"

  def scores(url):
    config = small_world.config(tmp_path, url)
    sets = opening.chosen_problems(config)
    with (
      Record(path) as record,
      opening.opened(config, tmp_path / "run", {}, sets, record, {}) as run,
    ):
      job = Job(config.prompts, sets.validation[:2], "validation")
      (made,) = run.rollouts.evaluate([job])
      return [r.score for r in made]

  with StubServer(small_world.answer) as stub:
    busy += [1] * 8  # four solutions, each tried twice
    assert scores(stub.url) == [None, None]
    assert not busy
    assert scores(stub.url) == [None, None]
