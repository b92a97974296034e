"""The table says what the evaluation says, in the right cell."""

import io

from atlas_jax.reports import tables
from tests.reports.evaluations import arm, evaluation


def test_cells_hold_value_and_interval():
  rows = {row[0]: row[1:] for row in tables.cells(evaluation())}
  assert rows[""] == ["alone", "taught"]
  assert rows["Accuracy [95%]"] == [
    "40.0% [35.0, 45.0]",
    "80.0% [75.0, 85.0]",
  ]
  assert rows["Gain over alone, points [95%]"] == ["–", "+40.0 [30.0, 50.0]"]
  assert rows["McNemar p"] == ["–", "< 0.0001"]
  assert rows["Still right, of those right alone"] == ["–", "97.5%"]
  assert rows["Teaching tokens"] == ["–", "9.2"]
  assert rows["Seconds a problem"] == ["–", "0.12"]


def test_a_loss_has_its_sign():
  result = evaluation()
  result["arms"][1] |= {"gain": -0.021, "gain_low": -0.06, "gain_high": 0.01}
  rows = {row[0]: row[1:] for row in tables.cells(result)}
  assert rows["Gain over alone, points [95%]"][1] == "-2.1 [-6.0, 1.0]"


def test_a_metric_that_no_arm_has_is_left_out():
  titles = [row[0] for row in tables.cells(evaluation())]
  assert "Teaching states the answer" not in titles
  result = evaluation()
  result["arms"][1]["leak_rate"] = 0.0
  assert "Teaching states the answer" in [r[0] for r in tables.cells(result)]


def test_markdown_has_one_cell_an_arm():
  result = evaluation()
  result["arms"][1]["name"] = "a|b"
  head, blank, *table = tables.markdown(result).splitlines()
  assert head == "200 problems, split test" and blank == ""
  assert table[0] == "|  | alone | a\\|b |"
  assert table[1] == "| --- | ---: | ---: |"
  assert table[2].startswith("| Accuracy [95%] | 40.0% ")
  assert len(table) == 2 + 6


def test_a_log_file_gets_whole_lines():
  stream = io.StringIO()
  tables.show(evaluation(), stream)
  (line,) = [x for x in stream.getvalue().splitlines() if "Gain" in x]
  assert line.split() == [
    *["Gain", "over", "alone,", "points", "[95%]"],
    "–",
    *["+40.0", "[30.0,", "50.0]"],
  ]
  assert "\x1b" not in stream.getvalue()


def test_students_that_the_teacher_never_met_have_tables_of_their_own():
  result = evaluation()
  arms = [arm("its alone", 0.1), arm("its taught", 0.6, gain=0.5)]
  result["students"] = [{"name": "m", "arms": arms}]
  (one, own), (two, other) = tables.parts(result)
  assert (one, own) == (tables.title(result), tables.cells(evaluation()))
  assert two == "Another student, m: 200 problems, split test"
  assert other[:2] == [
    ["", "its alone", "its taught"],
    ["Accuracy [95%]", "10.0% [5.0, 15.0]", "60.0% [55.0, 65.0]"],
  ]
  text = tables.markdown(result)
  assert text.index("| its alone") > text.index(two) > text.index("| taught")
  stream = io.StringIO()
  tables.show(result, stream)
  assert stream.getvalue().count("Accuracy") == 2


def test_a_judge_and_what_it_left_open_are_named():
  result = evaluation() | {"judge": "mine.py:judge"}
  assert (
    tables.title(result) == "200 problems, split test, judged by mine.py:judge"
  )
  open_rows = [r for r in tables.cells(result) if "verdict" in r[0]]
  assert open_rows == []
  result["arms"][0]["unjudged"], result["arms"][1]["unjudged"] = 0, 3
  (row,) = [r for r in tables.cells(result) if "verdict" in r[0]]
  assert row[1:] == ["–", "3"]
