"""The curves of a training, as SVG text that stands in a page or as a PNG.

Each figure shows a few metrics of one phase by step. With several runs (seeds)
a line is their mean and the band around it their range.
"""

import io
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from atlas_jax.reports import plots

# Title, what the vertical axis counts, names of metrics without their phase;
# a name that ends with * stands for all that begin so.
FIGURES: dict[tuple[str, str], str] = {
  ("Accuracy on training problems", "share right"): (
    "accuracy_taught accuracy_alone"
  ),
  ("Accuracy on validation problems", "share right"): (
    "validation_accuracy_taught validation_accuracy_alone"
  ),
  ("Reward", "mean of a batch"): "reward_mean reward_std",
  ("Reward by part", "mean of a batch"): "reward_*",
  ("KL", "nats a token"): "kl mismatch_kl",
  ("Entropy of the teacher", "nats a token"): "entropy",
  ("Lengths", "tokens"): (
    "teaching_tokens_mean teacher_tokens_mean response_tokens_alone"
    " response_tokens_taught"
  ),
  ("Teachings: format, leaks, cut", "share"): (
    "format_ok_fraction leak_fraction truncated_fraction"
  ),
  ("Groups without a spread", "share"): "zero_variance_fraction",
  ("Age of the sampling weights", "steps"): "staleness_mean",
  ("Seconds by stage", "seconds"): (
    "step_seconds sample_seconds score_seconds wait_seconds train_seconds"
    " publish_seconds"
  ),
  ("Loss", "mean"): "loss",
}
# Text of the figures in this colour takes that of the page around it.
_TEXT = "#010203"
_MOST = 1e200  # above it no axis has room
_OWN_FIGURE = {"mean", "std"}  # of reward_*: they have a figure of their own


def phases(lines: Iterable[Mapping]) -> list[str]:
  """The phases that the lines of metrics.jsonl are of, in their order."""
  return list(dict.fromkeys(line["phase"] for line in lines))


def _names(lines: Sequence[Mapping], phase: str, wanted: str) -> list[str]:
  if not wanted.endswith("*"):
    return [wanted]
  start = f"{phase}/{wanted[:-1]}"
  keys = dict.fromkeys(k for line in lines for k in line if k.startswith(start))
  names = [key.removeprefix(f"{phase}/") for key in keys]
  return [n for n in names if n.removeprefix(wanted[:-1]) not in _OWN_FIGURE]


def series(
  runs: Sequence[Sequence[Mapping]], phase: str, name: str
) -> tuple[np.ndarray, np.ndarray] | None:
  """(steps [S], values [R, S]) of one metric; NaN where a run lacks a step.

  None where no run has a number, or a part of the reward is always 0.
  """
  key = f"{phase}/{name}"
  found = [
    {
      x["step"]: x[key]
      for x in lines
      if x["phase"] == phase
      and isinstance(x.get(key), int | float)
      and abs(x[key]) < _MOST  # NaN is not
    }
    for lines in runs
  ]
  steps = sorted(set().union(*found))
  if not steps:
    return None
  values = np.array(
    [[one.get(step, np.nan) for step in steps] for one in found], np.float64
  )
  if name.startswith("reward_") and not np.nanmax(np.abs(values)) > 0:
    return None
  return np.array(steps), values


def _svg(figure) -> str:
  buffer = io.StringIO()
  figure.savefig(buffer, format="svg", metadata={"Date": None})
  text = buffer.getvalue()
  text = text[text.index("<svg") :].replace(_TEXT, "currentColor")
  # The width of the page decides.
  return re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)


def figure(
  title: str, unit: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> str:
  """One figure as SVG: {label: (steps [S], values [R, S])}."""
  import matplotlib
  from matplotlib.figure import Figure
  from matplotlib.ticker import MaxNLocator

  style = {
    "svg.fonttype": "none",  # text stays text: small, and it can be found
    "svg.hashsalt": title,  # the same run gives the same file
    "font.size": 9,
    **{
      f"{part}color": _TEXT
      for part in ("text.", "axes.edge", "axes.label", "xtick.", "ytick.")
    },
  }
  with matplotlib.rc_context(style):
    drawn = Figure(figsize=(5.2, 2.7), layout="constrained")
    axes = drawn.subplots()
    plots.draw_curves(axes, curves)
    axes.set(xlabel="step", ylabel=unit)
    if not any(np.nan_to_num(values).any() for _, values in curves.values()):
      axes.set_ylim(-0.05, 1)  # and no thousandths around a line of zeros
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    plots.finish(axes, title)
    drawn.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return _svg(drawn)


def all_figures(
  runs: Sequence[Sequence[Mapping]],
) -> list[tuple[str, list[str]]]:
  """(phase, its figures as SVG) for every phase that trains.

  Args:
    runs: the lines of metrics.jsonl, of one run or of several seeds.
  """
  out = []
  for phase in phases(runs[0]):
    drawn = []
    for (title, unit), wanted in FIGURES.items():
      names = [n for w in wanted.split() for n in _names(runs[0], phase, w)]
      curves = {
        name.removeprefix("reward_"): found
        for name in names
        if (found := series(runs, phase, name)) is not None
      }
      if curves:
        drawn.append(figure(title, unit, curves))
    if drawn:
      out.append((phase, drawn))
  return out


def of_rows(rows: Mapping[str, Sequence[Sequence[Mapping]]]) -> list[str]:
  """The first metric of each figure, with a curve for each row of a sweep.

  Args:
    rows: name -> of each seed the lines of metrics.jsonl. Of a run with
      several phases of GRPO the last is shown.
  """
  drawn = []
  for (title, unit), names in FIGURES.items():
    curves, name = {}, names.split()[0]
    for row, runs in rows.items():
      all_phases = phases(itertools.chain(*runs))
      trained = [phase for phase in all_phases if phase.endswith("_grpo")]
      found = series(runs, trained[-1], name) if trained else None
      if found is not None:
        curves[row] = found
    if curves:
      # One curve alone has no legend that would name its row.
      row = "" if len(curves) > 1 else f", {next(iter(curves))}"
      drawn.append(figure(f"{title}: {name}{row}", unit, curves))
  return drawn


def learning_curve(
  lines: Sequence[Mapping], path: pathlib.Path, phase: str
) -> None:
  """Writes a PNG: accuracy alone and taught above, reward below, by step.

  Args:
    lines: of metrics.jsonl; those of other phases are left out.
    path: the file to write.
    phase: whose steps to show.
  """
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  def drawn(axes, colors: Mapping[str, str]) -> None:
    found = {name: series([lines], phase, name) for name in colors}
    found = {name: at for name, at in found.items() if at is not None}
    shown = {name.split("_")[1]: at for name, at in found.items()}
    plots.draw_curves(axes, shown, [colors[name] for name in found])

  titles = (
    "The student's accuracy on training problems",
    "The teacher's mean reward",
  )
  with plots.picture(path, *titles, size=(7.5, 5.4)) as (top, bottom):
    top.set_ylim(0, 1.02)
    taught = {"accuracy_taught": plots.TAUGHT, "accuracy_alone": plots.ALONE}
    drawn(top, taught)
    drawn(bottom, {"reward_mean": plots.REWARD})
    top.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bottom.set_xlabel(f"{phase.split('_')[-1]} step")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
