"""What a run decided is read back by the next process, and nobody is asked."""

import itertools

import pytest
from aiohttp import web

from atlas_jax.confined import Late
from atlas_jax.online.search.rollouts import RolloutError
from atlas_jax.teaching import answers
from tests.online import small_world
from tests.online.opened_run import broken_for, evaluated, opened, playing
from tests.online.stub_server import StubServer

QUICK = {"student__retries": 0, "teacher__retries": 0}


def evaluate(tmp_path, stub, count=10, split="validation"):
  """(scores with reasons, calls at the server) of one process of a run."""
  before = len(stub.calls)
  path = tmp_path / "record.sqlite"
  with opened(tmp_path, stub.url, path=path, **QUICK) as run:
    made = evaluated(run, run.sets.validation[:count], split=split)
  return [(r.score, r.why) for r in made], len(stub.calls) - before


def test_a_problem_that_was_left_out_stays_so(tmp_path):
  with StubServer(broken_for("2003+", "GUIDED")) as stub:
    made, calls = evaluate(tmp_path, stub)
    assert calls == 41  # 4 a problem, and the second try
    stub.answer = small_world.answer
    assert evaluate(tmp_path, stub) == (made, 0)
    # Another process begins the episodes anew.
    path = tmp_path / "run/episodes/validation.jsonl"
    whole = path.read_text()
    assert whole.count("\n") == 9
    path.write_text(whole + whole[: len(whole) // 3])  # killed there
    assert evaluate(tmp_path, stub) == (made, 0)
    assert path.read_text() == whole
  (left_out,) = [why for score, why in made if score is None]
  assert left_out.startswith("taught: error HTTP 500")


def overloaded():
  """Three of four guided questions fail: not all, and not the last."""
  asked = itertools.count()

  def answer(messages):
    guided = messages[-1]["content"].startswith("GUIDED")
    if guided and next(asked) % 4 != 3:
      return web.Response(status=503)
    return small_world.answer(messages)

  return answer


@pytest.mark.parametrize(
  ("answer", "says", "left"),
  # Unaided solutions and plans were there; then all but the guided ones, of
  # which 2 of 10 came, and 2 of the 8 that were tried again.
  [
    (broken_for("+", "TEACH"), "10 of 10 .*teach: error HTTP 500", 2 * 10),
    (overloaded(), "6 of 10 problems", 6),
  ],
)
def test_an_evaluation_that_stopped_the_run_is_tried_again(
  tmp_path, answer, says, left
):
  with StubServer(answer) as stub:
    with pytest.raises(RolloutError, match=says):
      evaluate(tmp_path, stub)
    stub.answer = small_world.answer
    made, calls = evaluate(tmp_path, stub)
  assert calls == left
  assert all(score is not None for score, _ in made)


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


def test_what_could_not_be_judged_twice_is_left_out(tmp_path, busy):
  with StubServer(small_world.answer) as stub:
    busy += [1] * 8  # four solutions, each tried twice
    made, _ = evaluate(tmp_path, stub, 2, "train")
    assert made == [(None, "the verifier gave no verdict")] * 2 and not busy
    assert evaluate(tmp_path, stub, 2, "train") == (made, 0)


def test_a_verdict_is_given_once_in_a_run(tmp_path, busy):
  with StubServer(small_world.answer) as stub:
    busy += [1]  # the second try judges
    made, _ = evaluate(tmp_path, stub, count=2)
    assert all(score is not None for score, _ in made) and not busy
    busy += [1] * 99
    assert evaluate(tmp_path, stub, count=2) == (made, 0)
    # Another evaluation, of the same responses.
    assert evaluate(tmp_path, stub, count=1) == (made[:1], 0)
    assert len(busy) == 99


def test_the_seed_must_have_a_score(tmp_path, busy):
  with playing(tmp_path, small_world.answer) as (run, _):
    problems = run.sets.validation[:2]
    busy += [1] * 8
    with pytest.raises(RolloutError, match="no validation problem could be"):
      evaluated(run, problems)
    # It was not committed.
    assert evaluated(run, problems)[0].score is not None
