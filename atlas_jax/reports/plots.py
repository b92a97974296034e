"""Draws a run as PNG: its learning curve, its arms, and its score by spend.

The learning curve reads the lines of metrics.jsonl: objects with `phase`,
`step`, and, for phase P, `P/accuracy_alone`, `P/accuracy_taught` (fractions
of the sampled problems) and `P/reward_mean`; a null is a gap. The other
picture reads the evaluation that reports/tables.py describes. A phase is named
INDEX_NAME, as in 1_grpo.

Colours are those of Okabe and Ito (2008), which colour-blind readers tell
apart.
"""

import contextlib
import itertools
import pathlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from atlas_jax import files
from atlas_jax.reports.tables import ReportError, check

ALONE, TAUGHT, REWARD, OTHER = "#7F7F7F", "#0072B2", "#D55E00", "#8FC1E0"
COLORS = (
  *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
  *("#7F7F7F", "#8C564B"),
)
# Fewer steps than this are shown as they are, not smoothed.
MIN_STEPS_TO_SMOOTH = 20


def smooth(values: np.ndarray, window: int) -> np.ndarray:
  """Means over `window` steps around each value [T]; NaN is left out.

  Centred, because a trailing mean would show the learning later than it was.
  A window that holds NaN alone gives NaN.
  """
  # Odd, so that each window has a middle; NaN beyond the ends counts as a gap.
  half = window // 2
  padded = np.pad(values, half, constant_values=np.nan)
  windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
  known = ~np.isnan(windows)
  total, count = np.where(known, windows, 0.0).sum(-1), known.sum(-1)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def finish(axes, title: str) -> None:
  axes.set_title(title, fontsize=10, fontweight="bold", loc="left")
  axes.spines[["top", "right"]].set_visible(False)
  axes.grid(axis="y", color="#888888", alpha=0.25, linewidth=0.6)


@contextlib.contextmanager
def _picture(path: pathlib.Path, *titles: str, size: tuple[float, float]):
  """Axes below each title to draw on; a PNG that is written whole."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=size, layout="constrained")
  # Of two the upper one is larger, and both count the same.
  ratios = (3, 2)[: len(titles)]
  panels = figure.subplots(
    len(titles), sharex=True, squeeze=False, height_ratios=ratios
  )[:, 0]
  for axes, title in zip(panels, titles, strict=True):
    finish(axes, title)
  yield panels
  with files.replacing(path) as file:
    figure.savefig(file, format="png", dpi=144)


def draw_curves(
  axes,
  curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
  colors: Iterable[str] = COLORS,
) -> None:
  """Draws {label: (steps [S], values [R, S])}; NaN is a gap.

  Several runs (R > 1, seeds) are their mean, and a band over their range. Many
  steps of one run are smoothed.
  """
  for color, (label, (steps, values)) in zip(
    itertools.cycle(colors), curves.items(), strict=False
  ):
    known = ~np.isnan(values).all(axis=0)
    at, values = steps[known], values[:, known]
    mean, style = np.nanmean(values, axis=0), {"color": color, "label": label}
    if len(values) > 1:
      low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
      axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
      axes.plot(at, mean, linewidth=1.6, **style)
    elif len(at) < MIN_STEPS_TO_SMOOTH:
      axes.plot(at, mean, marker="o", markersize=3, **style)
    else:
      shown = smooth(mean, max(5, len(at) // 12))
      axes.plot(at, mean, color=color, alpha=0.25, linewidth=0.7)
      axes.plot(at, shown, linewidth=1.6, **style)
  if len(curves) > 1:
    axes.legend(
      frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
    )


def learning_curve(
  metrics: Sequence[Mapping], path: pathlib.Path, *, phase: str
) -> None:
  """Writes a PNG: accuracy alone and taught above, reward below, by step.

  Args:
    metrics: the lines of metrics.jsonl; those of other phases are left out.
    path: the file to write.
    phase: whose steps to show.

  Raises:
    ReportError: the phase has no line, or a line misses a number.
  """
  lines = sorted(
    (x for x in metrics if x["phase"] == phase), key=lambda x: x["step"]
  )
  if not lines:
    raise ReportError(f"metrics.jsonl has no line of phase {phase!r}")

  steps, curves = np.array([line["step"] for line in lines]), {}
  for name in ("accuracy_taught", "accuracy_alone", "reward_mean"):
    key = f"{phase}/{name}"
    for line in lines:
      if key not in line:
        raise ReportError(f"step {line['step']} of metrics.jsonl has no {key}")
    values = np.array([[line[key] for line in lines]], np.float64)  # None: NaN
    curves[name.split("_")[1]] = steps, values
  reward = {"reward": curves.pop("mean")}

  from matplotlib.ticker import MaxNLocator, PercentFormatter

  titles = (
    "The student's accuracy on training problems",
    "The teacher's mean reward",
  )
  with _picture(path, *titles, size=(7.5, 5.4)) as (top, bottom):
    top.set_ylim(0, 1.02)
    draw_curves(top, curves, (TAUGHT, ALONE))
    draw_curves(bottom, reward, (REWARD,))
    top.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bottom.set_xlabel(f"{phase.split('_')[-1]} step")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))


def bars(
  rows: Sequence[tuple[str, tuple[float, float, float], str]],
  path: pathlib.Path,
  *,
  title: str,
  colors: Sequence[str],
) -> None:
  """Writes a PNG: a bar of accuracy a row, with its interval.

  Args:
    rows: (name, (accuracy, low, high), what stands behind the bar).
    path: the file to write.
    title: above the bars.
    colors: of the rows.
  """
  from matplotlib.ticker import PercentFormatter

  names, values, texts = zip(*rows, strict=True)
  accuracy, low, high = np.array(values).T
  at, size = np.arange(len(rows)), (7.5, 1.3 + 0.62 * len(rows))
  with _picture(path, title, size=size) as (axes,):
    axes.barh(
      at,
      accuracy,
      # A rounding error must not give a negative length.
      xerr=(np.maximum(accuracy - low, 0), np.maximum(high - accuracy, 0)),
      color=colors,
      height=0.62,
      error_kw={"ecolor": "#333333", "capsize": 4, "elinewidth": 1.3},
    )
    for place in zip(np.maximum(accuracy, high), at, texts, strict=True):
      _write(axes, *place, by=(8, 0), va="center")
    # A dollar is a dollar, and begins no formula.
    names = [textwrap.fill(name, 26).replace("$", r"\$") for name in names]
    axes.set_yticks(at, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.spines["bottom"].set_bounds(0, 1)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)


def alone_versus_taught(evaluation: Mapping, path: pathlib.Path) -> None:
  """Writes a PNG: each arm's accuracy with its 95% interval.

  Raises:
    ReportError: a key of the evaluation is missing, or an arm's accuracy is.
  """
  check(evaluation)
  arms = evaluation["arms"]
  for arm in arms:
    if any(arm[k] is None for k in ("accuracy", "accuracy_low")):
      raise ReportError(f"arm {arm['name']!r} has no accuracy to draw")

  def text(arm) -> str:
    gain = arm["gain"]
    behind = "" if gain is None else f"  ({100 * gain:+.1f})"
    return f"{100 * arm['accuracy']:.1f}%{behind}"

  bounds = ("accuracy", "accuracy_low", "accuracy_high")
  bars(
    [(a["name"], tuple(a[key] for key in bounds), text(a)) for a in arms],
    path,
    title=f"The student's accuracy on {evaluation['problems']} problems"
    f" ({evaluation['split']}), 95% intervals",
    colors=[ALONE, *[OTHER] * (len(arms) - 2), TAUGHT][: len(arms)],
  )


def score_against_spend(
  points: Sequence[tuple[int, float, float]], path: pathlib.Path
) -> None:
  """Writes a PNG: the best validation score so far by the spend.

  Args:
    points: (calls, dollars, score) of each candidate, in order; the spend is
      in dollars where there is any, else in calls.
    path: the file to write.

  Raises:
    ReportError: there is no candidate.
  """
  if not points:
    raise ReportError("there is no candidate to draw")
  calls, dollars, scores = (
    np.array(column) for column in zip(*points, strict=True)
  )
  priced = dollars.max() > 0
  spend = dollars if priced else calls
  title = "Validation score: each candidate, and the best so far"
  with _picture(path, title, size=(7.5, 4.0)) as (axes,):
    best = np.maximum.accumulate(scores)
    axes.step(spend, best, where="post", color=TAUGHT, linewidth=2.2)
    axes.scatter(spend, scores, color=OTHER, zorder=3, s=28)
    names = ["seed", *map(str, range(1, len(scores)))]
    for place in zip(spend, scores, names, strict=True):
      _write(axes, *place, by=(5, -11), fontsize=8)
    axes.set_xlabel("dollars spent" if priced else "calls made")


def _write(axes, x: float, y: float, text: str, *, by, **style) -> None:
  """Writes beside a point, `by` points of the print away from it."""
  axes.annotate(text, (x, y), xytext=by, textcoords="offset points", **style)
