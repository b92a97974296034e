"""Proposals: what is refused, what is remembered, when it is given up."""

import pytest

from atlas_jax.online.calls.calls import ModelRefused, Reply
from atlas_jax.online.calls.ledger import BudgetSpent
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search.files import Journal, SearchOver
from atlas_jax.online.search.reflection import SearchFailed
from tests.online.scripted_reflection import (
  GOOD,
  NOW,
  Scripted,
  ask,
  reflector,
)


def fenced(text):
  return f"I think:\n```\n{text}\n```\n"


def test_a_reply_that_was_cut_is_refused():
  r = reflector(Scripted(Reply("truncated", text=fenced(GOOD))), attempts=1)
  assert ask(r) is None
  assert r.refused == [
    ("teacher", GOOD, "refused: the reply was cut at its length")
  ]


def test_the_model_is_told_why_and_asked_again():
  model = Scripted("no fences", fenced(GOOD))
  assert ask(reflector(model)) == GOOD
  assert "refused: no text between ``` fences" not in model.prompt(0)
  assert "refused: no text between ``` fences" in model.prompt(1)
  assert "no fences" in model.prompt(1)
  for part in (NOW, "Wrong with and without it.", "{question} and {probe}"):
    assert part in model.prompt(0)
  assert [r.replicate for r in model.requests] == [1, 2]
  assert len({r.seed for r in model.requests}) == 2


def test_of_a_refused_reply_the_template_is_shown_not_the_thinking():
  thinking = f"<think>{'hmm, let me see. ' * 200}\n```\nno\n```\n</think>\n"
  model = Scripted(
    thinking + fenced("Only {question}."),
    thinking + "I will not.",
    thinking.removesuffix("</think>\n"),
    fenced(GOOD),
  )
  r = reflector(model, attempts=4)
  assert ask(r) == GOOD
  assert [text for _, text, _ in r.refused] == [
    "Only {question}.",
    "I will not.",
    "",
  ]
  assert ":\n```\nOnly {question}.\n```" in model.prompt(1)


def test_a_candidate_is_proposed_once():
  model = Scripted(fenced(GOOD))
  r = reflector(model, attempts=1)
  assert ask(r) == GOOD
  assert ask(r) is None
  assert "tried before" in r.refused[-1][2]


def test_what_scored_worse_is_told():
  model = Scripted(fenced(GOOD))
  r = reflector(model)
  for i in range(6):
    r.refused.append(("teacher", f"text {i}", f"reason {i}"))
  r.refused.append(("student_probe", "other", "of another template"))
  ask(r)
  shown = [i for i in range(6) if f"reason {i}" in model.prompt(0)]
  assert shown == [2, 3, 4, 5]  # the last `remembered`
  assert "of another template" not in model.prompt(0)


DOWN = Reply("error", error="HTTP 500: down")


@pytest.mark.parametrize(
  ("said", "error", "why"),
  [
    ("no fences", SearchOver, "3 proposals"),
    (DOWN, SearchFailed, "3 calls .* HTTP 500: down"),
  ],
)
def test_what_is_of_no_use_in_a_row_ends_it(said, error, why):
  model = Scripted(said)
  r = reflector(model, attempts=2, max_failures=3)
  assert ask(r) is None
  with pytest.raises(error, match=why):
    ask(r)
  assert len(model.requests) == 3


def test_a_reply_resets_the_latch():
  model = Scripted(DOWN, DOWN, fenced(GOOD), DOWN, DOWN, fenced(GOOD + "!"))
  r = reflector(model, attempts=3, max_failures=3)
  assert ask(r) and ask(r)


@pytest.mark.parametrize(
  ("error", "raised"),
  [
    (BudgetSpent("calls are spent"), BudgetSpent),
    (ModelRefused("401"), SearchFailed),
  ],
)
def test_what_no_other_call_can_mend_is_raised(error, raised):
  model = Scripted(error)
  with pytest.raises(raised, match=str(error)):
    ask(reflector(model))
  assert len(model.requests) == 1


def test_what_was_asked_is_not_asked_again():
  journal = Journal(None, Record())
  said = ["no fences", DOWN, fenced(GOOD), DOWN, DOWN]
  first = Scripted(*said)
  r = reflector(first, journal, attempts=3, max_failures=2)
  assert ask(r) == GOOD
  with pytest.raises(SearchFailed):
    ask(r)
  # The failure that the search went on with is history; the last ones, for
  # which the run stopped, are tried again.
  second = Scripted(fenced(GOOD + "!"))
  r = reflector(second, journal, attempts=3, max_failures=2)
  assert ask(r) == GOOD
  assert second.requests == []
  assert ask(r) == GOOD + "!"
  assert second.requests == first.requests[3:4]


def test_a_failure_that_stopped_nothing_is_not_tried_again():
  journal = Journal(None, Record())
  assert ask(reflector(Scripted(DOWN), journal, attempts=1)) is None
  again = Scripted(fenced(GOOD))
  assert ask(reflector(again, journal, attempts=1)) is None
  assert again.requests == []
