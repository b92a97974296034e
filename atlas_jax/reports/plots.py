"""Draws a run as PNG: its learning curve, its arms, and its score by spend.

The learning curve reads the lines of metrics.jsonl: objects with `phase`,
`step`, and, for phase P, `P/accuracy_alone`, `P/accuracy_taught` (fractions
of the sampled problems) and `P/reward_mean`; a null is a gap. The other
picture reads the evaluation that reports/tables.py describes. A phase is named
INDEX_NAME, as in 1_grpo.

Colours are those of Okabe and Ito (2008), which colour-blind readers tell
apart; lines are named where they end, so that no legend is needed.
"""

import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from atlas_jax import files
from atlas_jax.reports.tables import ReportError, check

ALONE, TAUGHT, REWARD, OTHER = "#7F7F7F", "#0072B2", "#D55E00", "#8FC1E0"
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


def save(figure, path: pathlib.Path) -> None:
  """Replaces the picture whole: a reader finds the old one or the new one."""
  with files.replacing(path) as file:
    figure.savefig(file, format="png", dpi=144)


def finish(axes, title: str, *, grid: bool = True) -> None:
  axes.set_title(title, fontsize=11, fontweight="bold", loc="left")
  axes.spines[["top", "right"]].set_visible(False)
  if grid:
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)


def _curves(axes, steps, series: Mapping[str, tuple[str, np.ndarray]]) -> None:
  """Draws {label: (color, values)}, each named where it ends."""
  ends = []
  for label, (color, values) in series.items():
    shown = values
    if len(steps) < MIN_STEPS_TO_SMOOTH:
      axes.plot(steps, values, color=color, marker="o", markersize=4)
    else:
      shown = smooth(values, max(5, len(steps) // 12))
      axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.9)
      axes.plot(steps, shown, color=color, linewidth=2.2)
    known = np.flatnonzero(~np.isnan(shown))
    if len(known):
      ends.append((shown[known[-1]], steps[known[-1]], label, color))
  # Lowest first: a name goes up where it would cover the one below.
  bottom, top = axes.get_ylim()
  free = -np.inf
  for y, x, label, color in sorted(ends):
    at = max(y, free)
    free = at + 0.08 * (top - bottom)
    axes.annotate(
      f"  {label}",
      (x, at),
      va="center",
      color=color,
      annotation_clip=False,
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

  def series(name):
    key = f"{phase}/{name}"
    for line in lines:
      if key not in line:
        raise ReportError(f"step {line['step']} of metrics.jsonl has no {key}")
    return np.array([line[key] for line in lines], np.float64)  # None: NaN

  from matplotlib.figure import Figure
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  steps = np.array([line["step"] for line in lines])
  figure = Figure(figsize=(7.5, 5.4), layout="constrained")
  figure.get_layout_engine().set(w_pad=0.1)
  top, bottom = figure.subplots(
    2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 2)}
  )
  top.set_ylim(0, 1.02)
  taught, alone = series("accuracy_taught"), series("accuracy_alone")
  _curves(top, steps, {"taught": (TAUGHT, taught), "alone": (ALONE, alone)})
  _curves(bottom, steps, {"reward": (REWARD, series("reward_mean"))})
  top.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  name = phase.split("_")[-1]
  bottom.set_xlabel(f"{name} step")
  bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
  finish(top, "The student's accuracy on training problems")
  finish(bottom, "The teacher's mean reward")
  save(figure, path)


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

  from matplotlib.figure import Figure
  from matplotlib.ticker import PercentFormatter

  accuracy = np.array([arm["accuracy"] for arm in arms])
  # A rounding error must not give a negative length.
  below = np.maximum(accuracy - [arm["accuracy_low"] for arm in arms], 0)
  above = np.maximum([arm["accuracy_high"] for arm in arms] - accuracy, 0)
  colors = [OTHER] * len(arms)
  colors[-1], colors[0] = TAUGHT, ALONE

  figure = Figure(figsize=(7.5, 1.3 + 0.62 * len(arms)), layout="constrained")
  axes = figure.subplots()
  rows = np.arange(len(arms))
  axes.barh(
    rows,
    accuracy,
    xerr=(below, above),
    color=colors,
    height=0.62,
    error_kw={"ecolor": "#333333", "capsize": 4, "elinewidth": 1.3},
  )
  for row, arm in zip(rows, arms, strict=True):
    text = f"{100 * arm['accuracy']:.1f}%"
    if arm["gain"] is not None:
      text += f"  ({100 * arm['gain']:+.1f})"
    axes.annotate(
      text,
      (max(arm["accuracy_high"], arm["accuracy"]), row),
      xytext=(8, 0),
      textcoords="offset points",
      va="center",
      fontweight="bold" if row == len(arms) - 1 else "normal",
    )
  # A dollar is a dollar, and begins no formula.
  names = [textwrap.fill(arm["name"], 26).replace("$", r"\$") for arm in arms]
  axes.set_yticks(rows, names)
  axes.invert_yaxis()
  axes.set_xlim(0, 1.22)
  axes.set_xticks(np.linspace(0, 1, 6))
  axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  axes.spines["bottom"].set_bounds(0, 1)
  axes.tick_params(axis="y", length=0)
  title = (
    f"The student's accuracy on {evaluation['problems']} problems"
    f" ({evaluation['split']}), 95% intervals"
  )
  finish(axes, title, grid=False)
  save(figure, path)


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
  from matplotlib.figure import Figure

  calls, dollars, scores = (
    np.array(column) for column in zip(*points, strict=True)
  )
  priced = dollars.max() > 0
  spend = dollars if priced else calls
  figure = Figure(figsize=(7.5, 4.0), layout="constrained")
  axes = figure.subplots()
  axes.step(
    spend,
    np.maximum.accumulate(scores),
    where="post",
    color=TAUGHT,
    linewidth=2.2,
  )
  axes.scatter(spend, scores, color=OTHER, zorder=3, s=28)
  for i, (x, y) in enumerate(zip(spend, scores, strict=True)):
    axes.annotate(
      "seed" if i == 0 else str(i),
      (x, y),
      xytext=(5, -11),
      textcoords="offset points",
      fontsize=8,
    )
  axes.set_xlabel("dollars spent" if priced else "calls made")
  finish(axes, "Validation score: each candidate, and the best so far")
  save(figure, path)
