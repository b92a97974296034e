"""The table of an evaluation: Markdown for files, rich for the console.

evaluation.json, which phases/evaluate.py writes, is one object:
  problems: how many; split: "test", ...; arms: a list, the student alone
  first and the teacher being evaluated last. An arm is an object with a name
  and every key of METRICS; null says that it has no meaning for this arm
  (the gain of the student alone over itself). Fractions are in [0, 1].
  Other keys of the evaluation are for other readers.
"""

import math
from collections.abc import Callable, Mapping
from typing import IO

from atlas_jax.errors import AtlasError
from atlas_jax.terminal import printable


class ReportError(AtlasError):
  """An evaluation or a metrics file cannot be shown; the text says why."""


def _percent(value: float) -> str:
  return f"{100 * value:.1f}%"


def _points(value: float) -> str:
  return f"{100 * value:+.1f}"


def _number(value: float) -> str:
  return f"{value:.1f}"


def _seconds(value: float) -> str:
  return f"{value:.2f}"


def _p_value(value: float) -> str:
  return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


# Row title, key, keys of its 95% interval, how a value is written.
ROWS: tuple[
  tuple[str, str, tuple[str, str] | None, Callable[[float], str]], ...
] = (
  (
    "Accuracy [95%]",
    "accuracy",
    ("accuracy_low", "accuracy_high"),
    _percent,
  ),
  (
    "Gain over alone, points [95%]",
    "gain",
    ("gain_low", "gain_high"),
    _points,
  ),
  ("McNemar p", "mcnemar_p", None, _p_value),
  (
    "Still right, of those right alone",
    "non_degradation_correct",
    None,
    _percent,
  ),
  ("Not made worse, of all", "non_degradation_all", None, _percent),
  ("Completed", "completion_rate", None, _percent),
  ("Student response tokens", "response_tokens", None, _number),
  ("Teaching tokens", "teaching_tokens", None, _number),
  ("Teaching states the answer", "leak_rate", None, _percent),
  ("Seconds a problem", "seconds_per_problem", None, _seconds),
)
METRICS = tuple(
  key for _, name, interval, _ in ROWS for key in (name, *(interval or ()))
)


def check(evaluation: Mapping) -> None:
  """Raises ReportError where `evaluation` is not as described above."""
  for key in ("problems", "split", "arms"):
    if key not in evaluation:
      raise ReportError(f"the evaluation has no {key!r}")
  if not evaluation["arms"]:
    raise ReportError("the evaluation has no arms")
  for arm in evaluation["arms"]:
    for key in ("name", *METRICS):
      if key not in arm:
        raise ReportError(
          f"arm {arm.get('name')!r} has no {key!r}; an arm has name,"
          f" {', '.join(METRICS)}"
        )


def _cell(arm: Mapping, key, interval, write) -> str:
  value = arm[key]
  if value is None or math.isnan(value):
    return "–"
  text = write(value)
  if interval is None or any(arm[k] is None for k in interval):
    return text
  # The sign and the unit stand on the value; the bounds stay short.
  low, high = (100 * arm[k] for k in interval)
  return f"{text} [{low:.1f}, {high:.1f}]"


def cells(evaluation: Mapping) -> list[list[str]]:
  """The table as text: a heading, then one row a metric that any arm has."""
  check(evaluation)
  arms = evaluation["arms"]
  rows = [["", *(arm["name"] for arm in arms)]]
  for title, key, interval, write in ROWS:
    row = [_cell(arm, key, interval, write) for arm in arms]
    if any(text != "–" for text in row):
      rows.append([title, *row])
  return rows


def title(evaluation: Mapping) -> str:
  return f"{evaluation['problems']} problems, split {evaluation['split']}"


def markdown(evaluation: Mapping) -> str:
  """The evaluation as a Markdown table, its title above it.

  Raises:
    ReportError: a key is missing.
  """
  heading, *rows = [
    [text.replace("|", "\\|") for text in row] for row in cells(evaluation)
  ]
  lines = [heading, ["---", *("---:" for _ in heading[1:])], *rows]
  body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
  return f"{title(evaluation)}\n\n{body}\n"


def show(evaluation: Mapping, stream: IO[str]) -> None:
  """Prints the table to `stream`, in colour where that is a terminal.

  Raises:
    ReportError: a key is missing.
  """
  from rich import box
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  heading, *rows = [[printable(x) for x in row] for row in cells(evaluation)]
  table = Table(title=printable(title(evaluation)), box=box.SIMPLE_HEAD)
  for i, name in enumerate(heading):
    table.add_column(Text(name), justify="right" if i else "left")
  for row in rows:
    table.add_row(*(Text(text) for text in row))
  console = Console(file=getattr(stream, "terminal", stream))
  if not console.is_terminal:
    # A log file has no width: never fold a column.
    console.width = 40 + 32 * len(heading)
  console.print(table)
