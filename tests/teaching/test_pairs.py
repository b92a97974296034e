"""Verdicts on made pairs and on a table of known ones.

More pairs: VERDICT_PAIRS=20000 python -m pytest tests/teaching/test_pairs.py
"""

import dataclasses
import os
import pathlib
import re

import pytest

from atlas_jax.data.problems import make_problem
from atlas_jax.teaching import formulas
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.equality import exact_equal, formula
from tests.teaching.pairs import pairs

_TABLES = pathlib.Path(__file__).parent / "verdicts"
_LONGEST = ("forms.txt", "kinds.txt")
_COUNT = int(os.environ.get("VERDICT_PAIRS", "180"))


@pytest.fixture(scope="module")
def checker():
  with AnswerChecker(processes=2, deadline_s=30.0) as checker:
    yield checker


def judged(checker, cases) -> list[str]:
  items = [
    (make_problem("q", gold), f"<solution>{answer}</solution>", "stop")
    for gold, answer in cases
  ]
  return [verdict.status for verdict in checker.check_many(items)]


def table(name):
  for line in (_TABLES / name).read_text().splitlines():
    if line and not line.startswith("#"):
      case = re.fullmatch(r"(.*?) \| (.*) (->>?) (right|wrong)", line)
      gold, answer, ways, verdict = case.groups()
      status = {"right": "correct", "wrong": "wrong"}[verdict]
      yield gold, answer, status
      if ways == "->":
        yield answer, gold, status


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if name in _LONGEST else ())
    for name in sorted(p.name for p in _TABLES.iterdir())
  ],
)
def test_the_verdicts_of_the_table(checker, name):
  cases = list(table(name))
  assert len(cases) > 200
  found = judged(checker, [case[:2] for case in cases])
  wrongly = [
    (*case, status)
    for case, status in zip(cases, found, strict=True)
    if status != case[2]
  ]
  assert wrongly == []


def test_equal_by_construction_is_right_and_different_never(checker):
  made = list(pairs(_COUNT, seed=1))
  assert {pair.equal for pair in made} == {True, False}
  made += [
    dataclasses.replace(pair, gold=pair.answer, answer=pair.gold)
    for pair in made
    if pair.kind != "number in words"
  ]
  found = judged(checker, [(pair.gold, pair.answer) for pair in made])
  wrongly = [
    (pair, status)
    for pair, status in zip(made, found, strict=True)
    if status != ("correct" if pair.equal else "wrong")
  ]
  assert wrongly == []


def test_the_fast_path_says_yes_only_where_mathematics_does():
  certain = [
    pair
    for pair in pairs(_COUNT, 2, kinds=("number", "set", "interval"))
    # "3 1/2" is a product to math-verify.
    if not re.search(r"\d \d+/", f"{pair.gold} {pair.answer}")
    and exact_equal(pair.gold, pair.answer)
  ]
  assert len(certain) > _COUNT / 10
  denied = [
    (pair.gold, pair.answer)
    for pair in certain
    if not formulas.equal(formula(pair.gold), formula(pair.answer))
  ]
  assert denied == []


def test_the_fast_path_decides_most_answers_alone():
  kinds = ("number", "number in words", "unit", "choice", "base")
  made = list(pairs(max(_COUNT, 4000), 3, kinds=kinds))
  verdicts = [exact_equal(pair.gold, pair.answer) for pair in made]
  undecided = [
    (pair, verdict)
    for pair, verdict in zip(made, verdicts, strict=True)
    if verdict is not pair.equal
  ]
  assert undecided == []
