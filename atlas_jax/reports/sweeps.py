"""The results of a sweep: one table, one picture, one page.

A row is read at its last evaluation, in the arm that stands last (its
teacher). It is compared with the first row problem by problem, seed by seed;
the interval of a difference is over seeds and, within them, over problems.

  sweep.json   all numbers           sweep.md    the table
  sweep.png    the accuracies        index.html  all that, curves of the rows'
                                                 training, links to the reports
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atlas_jax import directory, metrics
from atlas_jax.reports import curves, page, plots, reading, tables
from atlas_jax.reports.tables import ReportError
from atlas_jax.teaching import statistics
from atlas_jax.teaching.statistics import Interval


@dataclass(frozen=True)
class Row:
  """One row over its seeds.

  Attributes:
    name: of the row.
    seeds: seed -> 'done', 'failed', ... of its run.
    accuracy, alone, still_right, teaching_tokens: means over finished seeds;
      None where no run is finished (still_right: or none was right alone).
    accuracy_spread: standard deviation over the seeds; None with one.
    difference: to the first row, over the seeds that both finished; None in
      the first row.
  """

  name: str
  seeds: Mapping[int, str]
  accuracy: float | None = None
  accuracy_spread: float | None = None
  alone: float | None = None
  still_right: float | None = None
  teaching_tokens: float | None = None
  difference: Interval | None = None


def _mean(values: Sequence[float | None]) -> float | None:
  known = [value for value in values if value is not None]
  return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Finished:
  """The last evaluation of a run: two of its arms, and the taught rates."""

  alone: Mapping
  taught: Mapping
  rates: Mapping[str, float]


def row_of(
  name: str,
  seeds: Mapping[int, str],
  runs: Mapping[int, Finished],
  first: Mapping[int, Finished],
) -> Row:
  """A row of the table.

  Args:
    name: of the row.
    seeds: seed -> what became of its run.
    runs: seed -> the run, where it is finished.
    first: those of the row to compare with; none in that row itself.
  """
  pairs = []
  for seed in (s for s in runs if s in first):
    rates, base = runs[seed].rates, first[seed].rates
    pairs.append([rates[key] - base[key] for key in rates if key in base])
  taught = [run.taught for run in runs.values()]
  accuracy = [arm["accuracy"] for arm in taught]
  return Row(
    name,
    seeds,
    _mean(accuracy),
    float(np.std(accuracy, ddof=1)) if len(accuracy) > 1 else None,
    _mean([run.alone["accuracy"] for run in runs.values()]),
    _mean([arm["non_degradation_correct"] for arm in taught]),
    _mean([arm["teaching_tokens"] for arm in taught]),
    statistics.nested_bootstrap(pairs, resamples=10_000, seed=0)
    if any(pairs)
    else None,
  )


def table_of(
  folder: pathlib.Path,
  names: Sequence[str],
  states: Mapping[str, str],
  seeds: Sequence[int],
) -> list[Row]:
  """Reads the rows' runs in `folder`/rows.

  Args:
    folder: of the sweep.
    names: of the rows, the one to compare with first.
    states: NAME_seedS -> 'done' and what else became of a run.
    seeds: of every row.
  """
  rows, first = [], {}
  for name in names:
    state = {s: states.get(f"{name}_seed{s}", "not started") for s in seeds}
    runs = {}
    for seed in (s for s in seeds if state[s] == "done"):
      run = reading.read(folder / "rows" / f"{name}_seed{seed}")
      if run.last is None:
        raise ReportError(f"row {name}: its config.phases has no evaluate")
      alone, *_, taught = run.last["arms"]
      rates = statistics.rates(run.arm(taught["name"])[1])
      runs[seed] = Finished(alone, taught, rates)
    rows.append(row_of(name, state, runs, first))
    if name == names[0]:
      first = runs
  return rows


def cells(rows: Sequence[Row]) -> list[list[str]]:
  """The table as text, its heading first."""

  def number(value: float | None, write: str) -> str:
    return "–" if value is None else write.format(value)

  def line(row: Row) -> list[str]:
    lost = [(s, state) for s, state in row.seeds.items() if state != "done"]
    done = f"{len(row.seeds) - len(lost)} of {len(row.seeds)}"
    spread = row.accuracy_spread
    return [
      row.name,
      ", ".join([done, *(f"seed {seed} {state}" for seed, state in lost)]),
      number(row.alone, "{:.1%}"),
      number(row.accuracy, "{:.1%}")
      + ("" if spread is None else f" ± {100 * spread:.1f}"),
      "–" if row.difference is None else tables.points(row.difference),
      number(row.still_right, "{:.1%}"),
      number(row.teaching_tokens, "{:.1f}"),
    ]

  heading = [
    *("Row", "Seeds", "Alone", "Taught, mean ± sd"),
    *("To the first row, points [95%]", "Still right", "Teaching tokens"),
  ]
  return [heading, *map(line, rows)]


def picture(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Draws the accuracies of the rows that have one."""
  shown = [row for row in rows if row.accuracy is not None]
  if not shown:
    return

  def bar(row: Row) -> tuple[str, tuple[float, float, float], str]:
    mean, spread = row.accuracy, row.accuracy_spread or 0
    return row.name, (mean, mean - spread, mean + spread), cells([row])[1][3]

  plots.bars(
    list(map(bar, shown)),
    path,
    title="The student's accuracy, taught",
    colors=[plots.OTHER, *[plots.TAUGHT] * (len(shown) - 1)],
  )


def write(
  folder: pathlib.Path, rows: Sequence[Row], *, name: str, question: str
) -> str:
  """Writes the four files; returns the table as Markdown."""
  table = cells(rows)
  text = tables.grid(table)
  directory.write_whole(
    folder / "sweep.md", f"# {name}\n\n{question}\n\n{text}"
  )
  directory.write_json(
    folder / "sweep.json",
    {"question": question, "rows": [dataclasses.asdict(r) for r in rows]},
  )
  picture(rows, folder / "sweep.png")
  links, runs = [], {}
  for row in rows:
    names = {seed: f"{row.name}_seed{seed}" for seed in row.seeds}
    pages = [
      link
      for seed, run in names.items()
      for link in (
        (f"seed {seed}", f"rows/{run}/report/index.html"),
        (f"log {seed}", f"logs/{run}.log"),
      )
    ]
    links.append([x for x in pages if (folder / x[1]).exists()])
    runs[row.name] = [
      metrics.of_run(folder / "rows" / run)
      for seed, run in names.items()
      if row.seeds[seed] == "done"
    ]
  html = page.rendered(
    "sweep.html",
    name=name,
    question=question,
    heading=table[0],
    rows=list(zip(table[1:], links, strict=True)),
    picture=(folder / "sweep.png").exists(),
    figures=curves.of_rows(runs),
  )
  directory.write_whole(folder / "index.html", html)
  return text
