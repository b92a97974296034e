"""No text commands a terminal."""

import io

import pytest

from atlas_jax.reports import tables
from atlas_jax.terminal import Printable, printable
from tests.reports.evaluations import arm


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("\x1b]0;title\x07\x1b[2Jx", r"\x1b]0;title\x07\x1b[2Jx"),
    ("a\x9b31m", r"a\x9b31m"),
    ("right\rwrong\b\x7f\0", r"right\rwrong\x08\x7f\x00"),
    ("\u202e\u2066\u200f\u2028", r"\u202e\u2066\u200f\u2028"),
    ("\ud800\U000e0041", r"\ud800\U000e0041"),
    ("a\tb\nü 中 👩‍👩‍👧 é", "a\tb\nü 中 👩‍👩‍👧 é"),
  ],
)
def test_commands_are_spelled_and_text_is_not(text, shown):
  assert printable(text) == shown


def test_a_stream_is_as_before_but_for_that():
  inner = io.StringIO()
  stream = Printable(inner)
  print("a\x1b", "b", file=stream, flush=True)
  stream.writelines(["c\x07\n"])
  assert inner.getvalue() == "a\\x1b b\nc\\x07\n"
  assert stream.isatty() is False


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_table_keeps_its_colours_and_spells_what_names_hold(monkeypatch):
  monkeypatch.setenv("TERM", "xterm")
  inner = Terminal()
  arms = [arm("alone", 0.4), arm("a\x1b]0;t\x07", 0.8)]
  evaluation = {"problems": 2, "split": "test\x9b", "arms": arms}
  tables.show(evaluation, Printable(inner))
  shown = inner.getvalue()
  assert "\x1b[1m" in shown and "\x1b]" not in shown
  assert "\x07" not in shown and "\x9b" not in shown
  assert r"\x9b" in shown
