"""Short answers: what is equal, what is not, what only mathematics decides."""

import time
from fractions import Fraction

import pytest

from atlas_jax.teaching.equality import (
  exact_equal,
  numbers_in,
  parse_number,
)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("18", "$18"), ("18", r"\$18"), ("18", "$18$"), ("18", "18."),
        ("18", "**18**"), ("18", r"\(18\)"), ("18", "$18.00"),
        ("1234", "1,234"), ("70,000", "70000"), ("5000000", "5 million"),
        ("1/2", "0.5"), ("0.5", ".5"), ("1/2", r"\frac{1}{2}"),
        ("-1/2", r"-\frac{1}{2}"), ("1.5", "1 1/2"), ("-3", "−3"),
        ("1200", "1.2e3"), ("50%", "0.5"), ("50", "50%"), ("50%", "50"),
        ("18", "18 dollars"), ("$18", "18 dollars"), ("5 km", "5km"),
        ("60 minutes", "60 minute"), ("18", "x = 18"), ("7", "3 + 4 = 7"),
        ("18", "Maria has 18 apples left."), ("9", "about 9"), ("0", "0.0"),
        ("B", "(B)"), ("B", "b"), ("New York", " new  york. "),
        ("5", r"5 \text{ cm}"),
    ],
)  # fmt: skip
def test_equal(gold, answer):
  assert exact_equal(gold, answer) is True


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("0.001", "0.004"), ("2/3", "0.667"), ("18", "-18"), ("18", "180"),
        ("62", "6 2"), ("A", "C"),
        ("12 km", "12 m"), ("60 minutes", "60 seconds"), ("18", "many"),
        ("5", "5 million"), ("10", "10 to 12"), ("1e300", "5"),
        ("12:00", "12"), ("1011_2", "1011"), ("5", "5 and a half"),
    ],
)  # fmt: skip
def test_not_equal(gold, answer):
  assert exact_equal(gold, answer) is False


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x+1", "1+x"), ("2", "2x"), ("2", "2 pi"), ("10", "10^2"),
        ("3", r"3\sqrt{1}"), ("4", "16 - 12"), ("(1,2)", "(1, 2)"),
        ("5", "2+3"), ("18", "18 or 19"), ("1234", "1,23"),
    ],
)  # fmt: skip
def test_only_mathematics_decides(gold, answer):
  assert exact_equal(gold, answer) is None


@pytest.mark.parametrize("text", ["1/0", "5²", "3:0", "", "1" * 300, "1..2"])
def test_not_one_number(text):
  assert parse_number(text) is None


def test_a_square_is_no_digit():
  assert exact_equal("52", "5²") is not True


def test_numbers_in_prose():
  text = "5 - 3 = 2, then -4 and $1,200.50 or 3/4 of x2; 9."
  assert [n.value for n in numbers_in(text)] == [
      5, 3, 2, -4, Fraction(2401, 2), Fraction(3, 4), 9,
  ]  # fmt: skip


def test_a_time_and_a_base_are_numbers_of_their_own_kind():
  assert parse_number("3:30").value == parse_number("15:30").value == 210
  assert parse_number("1011_2").value == 11
  assert parse_number("19_8") is None


def test_a_long_word_is_read_in_no_time():
  # Neither may try every way to cut it into pieces.
  for text in ("a" * 4000, "a " * 2000, "*" * 4000, "$ " * 2000, "`" * 4000):
    start = time.monotonic()
    exact_equal("18", text)
    assert time.monotonic() - start < 2


def test_a_number_too_long_to_read_is_none():
  assert numbers_in("1" * 5000 + " and 7") == numbers_in("7")
