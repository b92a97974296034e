"""A verifier and terms of the reward that are functions of the user's."""

import dataclasses
import pathlib

import pytest

from atlas_jax.config import DataConfig, RewardConfig
from atlas_jax.data.problems import make_problem
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.rewards import score_episodes
from tests import processes
from tests.teaching import own_functions
from tests.teaching.own_episodes import episode

FILE = str(pathlib.Path(own_functions.__file__))


def line_of(text: str) -> int:
  lines = pathlib.Path(FILE).read_text().splitlines()
  (found,) = [i for i, line in enumerate(lines, 1) if text in line]
  return found


def opened(deadline_s: float = 60.0) -> AnswerChecker:
  data = DataConfig(own_processes=2, own_deadline_s=deadline_s)
  return AnswerChecker(processes=1, data=data)


@pytest.fixture(scope="module")
def checker():
  with opened() as checker:
    yield checker


def judged(checker, name, gold, text, finish_reason="stop", file=FILE):
  problem = make_problem("q?", gold, verifier=f"{file}:{name}")
  return checker.check(problem, text, finish_reason)


def test_a_share_counts_as_it_is(checker):
  verdict = judged(checker, "half", "blue", "It is blue.")
  assert (verdict.status, verdict.score) == ("wrong", 0.5)
  assert verdict.completed and verdict.answer == "It is blue."
  module = own_functions.__name__
  assert judged(checker, "half", "red", "blue", file=module).score == 0.0


def test_it_gets_the_response_without_thinking(checker):
  assert judged(checker, "same", "sky", "<think>x</think> sky\n").score == 1.0
  for text in ("", "<think>sky", "Error: 401 sky"):
    assert judged(checker, "same", "sky", text).status == "no_answer"
  assert judged(checker, "same", "sky", "sky", "length").status == "truncated"
  whole = "<solution>1</solution> an"
  assert judged(checker, "same", whole, whole, "length").score == 1.0


def test_it_may_be_async(checker):
  assert judged(checker, "later", "g", "12").score == 0.05


def test_none_is_no_verdict_and_no_failure(checker):
  verdict = judged(checker, "silent", "g", "r")
  assert (verdict.status, verdict.score) == ("no_verdict", None)


@pytest.mark.parametrize(
  "name, gold, response, says",
  [
    ("divides", "1", "0", "ZeroDivisionError: division by zero ({})"),
    ("divides", "x", "0", "ValueError: invalid literal for int()"),
    ("odd", "nan", "r", "it returned nan, expected a number from 0 to 1"),
    ("odd", "high", "r", "it returned 1.5, expected a number from 0 to 1"),
    ("odd", "text", "r", "it returned '0.5', expected"),
    ("odd", "list", "r", "TypeError: float() argument must be"),
    ("leaves", "g", "r", "SystemExit: enough ({})"),
    ("cancelled", "g", "r", "CancelledError: within"),
    ("dies", "g", "r", ":dies ended its process"),
    ("brevity", "g", "r", "takes 1 positional argument but 3 were given ({})"),
  ],
)
def test_a_failure_names_its_line_and_is_no_score(
  checker, name, gold, response, says
):
  verdict = judged(checker, name, gold, response)
  assert (verdict.status, verdict.score) == ("error", None)
  line = {
    "divides": "int(gold) / int(response)",
    "leaves": "sys.exit(",
    "brevity": "def brevity",
  }
  assert checker.failure.startswith(f"{FILE}:{name}")
  at = f"{FILE}:{line_of(line[name])}" if name in line else ""
  assert says.format(at) in checker.failure
  if name == "odd":
    assert f"({FILE}:{line_of('def odd')})" in checker.failure


def test_files_programs_and_processes_are_its_own(checker, tmp_path):
  path = str(tmp_path / "solution.py")
  assert judged(checker, "runs_tests", path, "assert 1 + 1 == 2").score == 1.0
  assert judged(checker, "runs_tests", path, "assert 1 + 1 == 3").score == 0.0


def test_the_deadline_ends_it_and_what_it_started(tmp_path):
  pid = tmp_path / "pid"
  with opened(deadline_s=3.0) as checker:
    verdict = judged(checker, "hangs", str(pid), "r")
  assert (verdict.status, verdict.score) == ("verifier_timeout", None)
  assert checker.failure == f"{FILE}:hangs takes more than 3 s"
  assert processes.all_end([int(pid.read_text())])


def scored(checker, episodes, **extra):
  terms = {
    name: {"function": f"{FILE}:{function}", "weight": weight}
    for name, (function, weight) in extra.items()
  }
  return score_episodes(
    episodes,
    checker=checker,
    config=RewardConfig(extra=terms),
    max_teaching_tokens=50,
  )


def test_terms_are_parts_of_the_reward(checker):
  (plain,) = scored(checker, [episode("a b", "carry the one")])
  (more,) = scored(
    checker,
    [episode("a b", "carry the one")],
    short=("brevity", 0.25),
    seen=("improved", 2.0),
  )
  assert [t.reward.parts["short"] for t in more.teachings] == [-0.5, -0.75]
  for before, after in zip(plain.teachings, more.teachings, strict=True):
    before, after = before.reward, after.reward
    assert list(after.parts) == [*before.parts, "short", "seen"]
    assert after.parts["seen"] == 2.0  # one of two was right alone
    own = after.parts["short"] + after.parts["seen"]
    assert after.total == pytest.approx(before.total + own)


def test_a_term_that_fails_leaves_its_teaching_out(checker):
  (more,) = scored(
    checker,
    [episode("a b", "carry the one")],
    own=("refuses", 1.0),
    short=("brevity", 1.0),
  )
  kept, lost = (t.reward for t in more.teachings)
  assert kept.parts["own"] == 1.0 and kept.parts["short"] == -2.0
  assert lost.total is None and lost.parts == {}
  at = f"{FILE}:{line_of('raise ValueError')}"
  says = f"{FILE}:refuses: ValueError: no carry in 1+1 ({at})"
  assert checker.failure == says


def test_a_teaching_without_a_verdict_is_not_asked_about(checker):
  one = episode("a b", "carry the one")
  problem = make_problem("1+1", "2", verifier=f"{FILE}:silent")
  one = dataclasses.replace(one, problem=problem)
  (more,) = scored(checker, [one], own=("refuses", 1.0))
  assert [t.reward.total for t in more.teachings] == [None, None]
