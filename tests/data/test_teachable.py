"""The built-in task: its questions, its student's slips, what helps and harms.

The rules are checked by arithmetic of the test's own; that a student trained
on them behaves so is what the quickstart shows.
"""

import dataclasses
import re

import pytest

from atlas_jax.config import DataConfig
from atlas_jax.data import teachable, teachable_examples
from atlas_jax.data.problems import question_key
from atlas_jax.data.splits import load, load_sft
from atlas_jax.data.teachable import (
  BORROW,
  CARRY,
  KEEP,
  KINDS,
  ORDER,
  Exercise,
)
from atlas_jax.errors import AtlasError

ALL = [q for kind in KINDS for q in teachable.exercises(kind)]
FIXES = (CARRY, BORROW, ORDER)


def answer_of(response: str) -> str:
  (found,) = re.findall(r"<solution>(.*?)</solution>", response)
  return found


def test_questions_and_answers_by_hand():
  assert Exercise("addition", 36, 46).text == "36+46=?"
  assert Exercise("addition", 36, 46).answer == 82
  assert Exercise("subtraction", 62, 37).answer == 25
  chain = Exercise("chain", 47, 3, 2)
  assert (chain.text, chain.answer) == ("47-3+2=?", 46)


def test_every_answer_is_what_the_question_says():
  for q in ALL:
    left = re.fullmatch(r"(\d+(?:[+-]\d+)+)=\?", q.text)[1]
    assert eval(left) == q.answer


@pytest.mark.parametrize(
  ("q", "wrong"),
  [
    (Exercise("addition", 46, 36), 72),  # the carry is forgotten
    (Exercise("subtraction", 82, 37), 55),  # 7-2 instead of 12-7
    (Exercise("chain", 57, 3, 2), 52),  # 3+2 first
  ],
)
def test_the_slips_by_hand(q, wrong):
  assert q.slips
  assert answer_of(teachable.baseline_response(q)) == str(wrong) != q.answer


def test_the_student_slips_exactly_where_it_says():
  for q in ALL:
    right = answer_of(teachable.baseline_response(q)) == str(q.answer)
    assert right != q.slips, q


def test_a_student_that_knows_less_slips_more():
  q = Exercise("addition", 26, 46)  # below 40, but not below 20
  assert not q.slips and dataclasses.replace(q, knows=0.5).slips
  kept, more = (
    teachable_examples.student_examples({"count": 400, "knows": knows}, 0)
    for knows in (1.0, 0.5)
  )
  assert [x.fields["question"] for x in kept] == [
    x.fields["question"] for x in more
  ]
  slipped = [sum(", drop 1" in x.response for x in of) for of in (kept, more)]
  assert slipped[0] < slipped[1]


def test_the_right_fix_repairs_and_needless_ones_break():
  for q in ALL:
    for advice in FIXES:
      given = answer_of(teachable.taught_response(q, advice))
      helps = q.slips and advice == teachable.FIX[q.kind]
      if helps:
        assert given == str(q.answer), (q, advice)
      elif advice == ORDER and given == given[::-1]:
        continue  # the digits read the same in either order
      else:
        assert given != str(q.answer), (q, advice)
    for advice in (KEEP, None):
      right = answer_of(teachable.taught_response(q, advice)) == str(q.answer)
      assert right != q.slips


def test_the_outline_tells_a_slip_from_a_sound_plan():
  # What a teacher can read off: no outline is written in both cases.
  by_outline = {}
  for q in ALL:
    key = (q.text if q.kind == "chain" else q.kind, teachable.probe_response(q))
    by_outline.setdefault(key, set()).add(q.slips)
  assert all(len(slips) == 1 for slips in by_outline.values())


def test_no_constant_teaching_comes_near_the_right_one():
  problems = teachable.problems({}, 0)
  questions = {q.text: q for q in ALL}

  def accuracy(advice_of):
    right = 0
    for p in problems:
      q = questions[p.question]
      given = answer_of(teachable.taught_response(q, advice_of(q)))
      right += given == p.answer
    return right / len(problems)

  def adaptive(q):
    return teachable.FIX[q.kind] if q.slips else KEEP

  assert accuracy(adaptive) == 1.0
  silent = accuracy(lambda q: None)
  best = max(accuracy(lambda q, a=a: a) for a in teachable.ADVICE)
  assert 0.3 < silent < 0.7
  assert best - silent < 0.1


def test_problems_follow_the_seed_and_their_parameters():
  first = teachable.problems({"count": 300}, 1)
  assert first == teachable.problems({"count": 300}, 1)
  assert first != teachable.problems({"count": 300}, 2)
  assert len({p.id for p in first}) == 300
  easy = teachable.problems({"count": 300, "trouble": 0.0}, 1)
  hard = teachable.problems({"count": 300, "trouble": 1.0}, 1)
  slips = [sum(p.meta["slips"] for p in ps) for ps in (easy, first, hard)]
  assert slips[0] < slips[1] < slips[2]
  for bad, message in (
    ({"cuont": 3}, "cuont.*valid keys: count, trouble"),
    ({"count": 0}, r"config\.data\.params\.count=0 must be above 0"),
    ({"trouble": 1.5}, "trouble=1.5 must not be above 1"),
    ({"trouble": "1"}, "trouble must be float, got str '1'"),
    ({"count": 9000}, "there are"),
  ):
    with pytest.raises(AtlasError, match=message):
      teachable.problems(bad, 0)


def test_examples_never_hold_a_held_out_question():
  config = DataConfig()
  splits = load(config)
  held_out = {question_key(p.question) for p in splits.test + splits.validation}
  for source in ("teachable_sft", "teachable_student"):
    params = {"count": 3000}
    config = DataConfig(sft_source=source, sft_params=params)
    examples = load_sft(config)
    assert not held_out & {question_key(e.fields["question"]) for e in examples}


def test_the_shares_of_the_textbook():
  def shares(**params):
    examples = teachable_examples.sft_examples({"count": 2000, **params}, 0)
    by_text = {t: a for a, texts in teachable.PHRASES.items() for t in texts}
    questions = {q.text: q for q in ALL}
    advice = [
      by_text[re.search(r"<teaching>(.*)</teaching>", e.response)[1]]
      for e in examples
    ]
    book = [
      a == teachable.FIX[questions[e.fields["question"]].kind]
      for a, e in zip(advice, examples, strict=True)
    ]
    return sum(book) / 2000, advice.count(KEEP) / 2000

  book, keep = shares()
  assert book == pytest.approx(0.65, abs=0.03)
  assert keep == pytest.approx(0.2, abs=0.03)
  assert shares(textbook=0.0, keep=1.0) == (0.0, 1.0)
  with pytest.raises(AtlasError, match="above 1"):
    shares(textbook=0.9, keep=0.2)


def test_noise_is_a_share_of_the_students_teachings():
  def noisy(share):
    examples = teachable_examples.student_examples(
      {"count": 4000, "noise": share}, 0
    )
    texts = {t for ts in teachable.PHRASES.values() for t in ts}
    taught = [e for e in examples if "teaching" in e.fields]
    return sum(e.fields["teaching"] not in texts for e in taught) / len(taught)

  assert noisy(0.0) == 0
  assert noisy(0.5) == pytest.approx(0.5, abs=0.05)
