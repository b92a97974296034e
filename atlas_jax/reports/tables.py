"""Writes the table of an evaluation, as Markdown or to the console.

evaluation.json, which phases/evaluate.py writes, is one object:
  problems: how many; split: "test", ...; arms: a list, the student alone
  first and the teacher being evaluated last. An arm is an ArmResult
  (teaching/statistics.py); null says that something has no meaning for this arm
  (the gain of the student alone over itself). Fractions are in [0, 1].
  judge: the user's own verifier, where there is one; students: those that the
  teacher never met, objects with name and arms.
  Other keys of the evaluation are for other readers.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, NamedTuple

from atlas_jax.errors import AtlasError
from atlas_jax.teaching.statistics import Interval
from atlas_jax.terminal import printable


class ReportError(AtlasError):
  """An evaluation or metrics file that cannot be shown; the text says why."""


class _Row(NamedTuple):
  title: str
  key: str
  write: Callable[[float], str]


_percent, _number = "{:.1%}".format, "{:.1f}".format
_seconds = "{:.2f}".format


def _points(value: float) -> str:
  return f"{100 * value:+.1f}"


def _count(value: float) -> str:
  return str(value) if value else "–"


def _p_value(value: float) -> str:
  return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


ROWS = (
  _Row("Accuracy [95%]", "accuracy", _percent),
  _Row("Right in any of k samples", "pass_at_k", _percent),
  _Row("Gain over alone, points [95%]", "gain", _points),
  _Row("McNemar p", "mcnemar_p", _p_value),
  _Row(
    "Still right, of those right alone", "non_degradation_correct", _percent
  ),
  _Row("Not made worse, of all", "non_degradation_all", _percent),
  _Row("Responses without a verdict", "unjudged", _count),
  _Row("Completed", "completion_rate", _percent),
  _Row("Student response tokens", "response_tokens", _number),
  _Row("Teaching tokens", "teaching_tokens", _number),
  _Row("Points gained a teaching token", "gain_per_teaching_token", _points),
  _Row("Points gained an interaction", "gain_per_interaction", _points),
  _Row("Teaching states the answer", "leak_rate", _percent),
  _Row("Seconds a problem", "seconds_per_problem", _seconds),
)


def _cell(arm: Mapping, row: _Row) -> str:
  value = arm.get(row.key)
  if value is None or math.isnan(value):
    return "–"
  # The ends of its 95% interval, if it has one.
  low, high = arm.get(f"{row.key}_low"), arm.get(f"{row.key}_high")
  if low is None or high is None:
    return row.write(value)
  # The sign and the unit stand on the value; the bounds stay short.
  return f"{row.write(value)} [{100 * low:.1f}, {100 * high:.1f}]"


def cells(evaluation: Mapping) -> list[list[str]]:
  """The table as text: a heading, then one row a metric that any arm has."""
  arms = evaluation["arms"]
  rows = [["", *(arm["name"] for arm in arms)]]
  for row in ROWS:
    texts = [_cell(arm, row) for arm in arms]
    if any(text != "–" for text in texts):
      rows.append([row.title, *texts])
  return rows


def title(evaluation: Mapping) -> str:
  """The line above the table."""
  text = f"{evaluation['problems']} problems, split {evaluation['split']}"
  judge = evaluation.get("judge")
  return f"{text}, judged by {judge}" if judge else text


def parts(evaluation: Mapping) -> Iterator[tuple[str, list[list[str]]]]:
  """(title, table) of the run's student, then of each that it never met."""
  yield title(evaluation), cells(evaluation)
  for student in evaluation.get("students", ()):
    of_student = {**evaluation, "arms": student["arms"]}
    name = f"Another student, {student['name']}: {title(evaluation)}"
    yield name, cells(of_student)


def points(interval: Interval) -> str:
  """A difference of fractions in points, its bounds behind it."""
  low, high = 100 * interval.low, 100 * interval.high
  return f"{100 * interval.estimate:+.1f} [{low:.1f}, {high:.1f}]"


def grid(rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table, its heading first."""
  heading, *rows = [[text.replace("|", "\\|") for text in x] for x in rows]
  lines = [heading, ["---", *("---:" for _ in heading[1:])], *rows]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown(evaluation: Mapping) -> str:
  """The evaluation as Markdown tables, each with its title above it."""
  return "\n".join(f"{name}\n\n{grid(t)}" for name, t in parts(evaluation))


def show(evaluation: Mapping, stream: IO[str]) -> None:
  """Prints the tables to `stream`, in colour where that is a terminal."""
  from rich import box
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  console = Console(file=getattr(stream, "terminal", stream))
  for name, of_student in parts(evaluation):
    heading, *rows = [[printable(x) for x in row] for row in of_student]
    table = Table(title=printable(name), box=box.SIMPLE_HEAD)
    for i, column in enumerate(heading):
      table.add_column(Text(column), justify="right" if i else "left")
    for row in rows:
      table.add_row(*(Text(text) for text in row))
    if not console.is_terminal:
      # A log file has no width: never fold a column.
      console.width = 40 + 32 * len(heading)
    console.print(table)
