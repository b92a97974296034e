"""The results of a sweep: one table, one picture, one page.

A row is read at its last evaluation, in the arm that stands last (its
teacher). It is compared with the first row problem by problem, seed by seed;
the interval of a difference is over seeds and, within them, over problems.

  sweep.json   all numbers           sweep.md    the table
  sweep.png    the differences       index.html  all that, links to the reports
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import numpy as np

from atlas_jax import directory
from atlas_jax.reports import plots, reading
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


def table_of(
  folder: pathlib.Path,
  names: Sequence[str],
  states: Mapping[str, str],
  seeds: Sequence[int],
  resamples: int = 10_000,
) -> list[Row]:
  """Reads the rows' runs in `folder`/rows.

  Args:
    folder: of the sweep.
    names: of the rows, the one to compare with first.
    states: NAME_seedS -> 'done' and what else became of a run.
    seeds: of every row.
    resamples: of the bootstrap.
  """
  rows, first = [], {}
  for name in names:
    state = {s: states.get(f"{name}_seed{s}", "not started") for s in seeds}
    rates, arms = {}, []
    for seed in (s for s in seeds if state[s] == "done"):
      run = reading.read(folder / "rows" / f"{name}_seed{seed}")
      if run.last is None:
        raise ReportError(f"row {name}: its config.phases has no evaluate")
      last = run.last["arms"][-1]
      arms.append((run.last["arms"][0], last))
      rates[seed] = reading.rates(
        x for x in run.attempts if x["arm"] == last["name"]
      )
    pairs = [
      [rates[s][key] - first[s][key] for key in rates[s] if key in first[s]]
      for s in rates
      if s in first
    ]
    accuracy = [arm["accuracy"] for _, arm in arms]
    rows.append(
      Row(
        name,
        state,
        _mean(accuracy),
        float(np.std(accuracy, ddof=1)) if len(accuracy) > 1 else None,
        _mean([alone["accuracy"] for alone, _ in arms]),
        _mean([arm["non_degradation_correct"] for _, arm in arms]),
        _mean([arm["teaching_tokens"] for _, arm in arms]),
        statistics.nested_bootstrap(pairs, resamples=resamples, seed=0)
        if any(pairs)
        else None,
      )
    )
    if name == names[0]:
      first = rates
  return rows


def cells(rows: Sequence[Row]) -> list[list[str]]:
  """The table as text, its heading first."""

  def percent(value):
    return "–" if value is None else f"{100 * value:.1f}%"

  def line(row: Row) -> list[str]:
    done = sum(state == "done" for state in row.seeds.values())
    spread = row.accuracy_spread
    d = row.difference
    return [
      row.name,
      f"{done} of {len(row.seeds)}"
      + "".join(
        f", seed {seed} {state}"
        for seed, state in row.seeds.items()
        if state != "done"
      ),
      percent(row.alone),
      percent(row.accuracy)
      + ("" if spread is None else f" ± {100 * spread:.1f}"),
      "–"
      if d is None
      else f"{100 * d.estimate:+.1f} [{100 * d.low:.1f}, {100 * d.high:.1f}]",
      percent(row.still_right),
      "–" if row.teaching_tokens is None else f"{row.teaching_tokens:.1f}",
    ]

  heading = [
    *("Row", "Seeds", "Alone", "Taught, mean ± sd"),
    *("To the first row, points [95%]", "Still right", "Teaching tokens"),
  ]
  return [heading, *map(line, rows)]


def _picture(rows: Sequence[Row], path: pathlib.Path) -> None:
  from matplotlib.figure import Figure
  from matplotlib.ticker import PercentFormatter

  shown = [row for row in rows if row.accuracy is not None]
  if not shown:
    return
  figure = Figure(figsize=(7.5, 1.3 + 0.5 * len(shown)), layout="constrained")
  axes = figure.subplots()
  at = np.arange(len(shown))
  axes.barh(
    at,
    [row.accuracy for row in shown],
    xerr=[row.accuracy_spread or 0 for row in shown],
    color=[plots.OTHER, *[plots.TAUGHT] * (len(shown) - 1)],
    height=0.6,
    error_kw={"ecolor": "#333333", "capsize": 4},
  )
  for row, y in zip(shown, at, strict=True):
    axes.annotate(
      cells([row])[1][3],
      (row.accuracy + (row.accuracy_spread or 0), y),
      xytext=(8, 0),
      textcoords="offset points",
      va="center",
    )
  axes.set_yticks(at, [row.name for row in shown])
  axes.invert_yaxis()
  axes.set_xlim(0, 1.3)
  axes.set_xticks(np.linspace(0, 1, 6))
  axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  plots.finish(axes, "The student's accuracy, taught", grid=False)
  plots.save(figure, path)


def write(
  folder: pathlib.Path, rows: Sequence[Row], *, name: str, question: str
) -> str:
  """Writes the four files; returns the table as Markdown."""
  table = cells(rows)
  heading, *lines = [
    [text.replace("|", "\\|") for text in line] for line in table
  ]
  marks = ["---", *("---:" for _ in heading[1:])]
  text = "".join(f"| {' | '.join(x)} |\n" for x in (heading, marks, *lines))
  directory.write_whole(
    folder / "sweep.md", f"# {name}\n\n{question}\n\n{text}"
  )
  directory.write_json(
    folder / "sweep.json",
    {"question": question, "rows": [dataclasses.asdict(r) for r in rows]},
  )
  _picture(rows, folder / "sweep.png")
  here = pathlib.Path(__file__)
  links = []
  for row in rows:
    of_seed = {s: f"rows/{row.name}_seed{s}/report" for s in row.seeds}
    links.append(
      [
        (seed, f"{report}/index.html")
        for seed, report in of_seed.items()
        if (folder / report / "index.html").exists()
      ]
    )
  page = jinja2.Environment(autoescape=True).from_string(
    here.with_name("sweep.html").read_text()
  )
  directory.write_whole(
    folder / "index.html",
    page.render(
      name=name,
      question=question,
      css=here.with_name("page.css").read_text(),
      heading=table[0],
      rows=list(zip(table[1:], links, strict=True)),
      picture=(folder / "sweep.png").exists(),
    ),
  )
  return text
