"""Draws curves and bars of accuracies; writes pictures as PNG.

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

ALONE, TAUGHT, REWARD, OTHER = "#7F7F7F", "#0072B2", "#D55E00", "#8FC1E0"
COLORS = (
  *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
  *("#7F7F7F", "#8C564B"),
)
# Fewer steps than this are shown as they are, not smoothed.
MIN_STEPS_TO_SMOOTH = 20


def smooth(values: np.ndarray, window: int) -> np.ndarray:
  """Means over `window` steps around each value [T], fewer at the ends.

  Centred, because a trailing mean would show the learning later than it was.
  """
  around = np.ones(window // 2 * 2 + 1)  # odd, so that it has a middle
  counts = np.convolve(np.ones(len(values)), around, "same")
  return np.convolve(values, around, "same") / counts


def finish(axes, title: str) -> None:
  axes.set_title(title, fontsize=10, fontweight="bold", loc="left")
  axes.spines[["top", "right"]].set_visible(False)
  axes.grid(axis="y", color="#888888", alpha=0.25, linewidth=0.6)


@contextlib.contextmanager
def picture(path: pathlib.Path, *titles: str, size: tuple[float, float]):
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
  with picture(path, title, size=size) as (axes,):
    axes.barh(
      at,
      accuracy,
      # A rounding error must not give a negative length.
      xerr=(np.maximum(accuracy - low, 0), np.maximum(high - accuracy, 0)),
      color=colors,
      height=0.62,
      error_kw={"ecolor": "#333333", "capsize": 4, "elinewidth": 1.3},
    )
    for x, y, text in zip(np.maximum(accuracy, high), at, texts, strict=True):
      behind = {"xytext": (8, 0), "textcoords": "offset points"}
      axes.annotate(text, (x, y), va="center", **behind)
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
