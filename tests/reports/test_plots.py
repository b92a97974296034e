"""The pictures: the smoothing by hand, the drawing by its pixels."""

import numpy as np
import pytest

from atlas_jax.reports import curves, plots


def line(step, alone, taught, reward, phase="grpo"):
  return {
    "phase": phase,
    "step": step,
    "time": 0.0,
    f"{phase}/accuracy_alone": alone,
    f"{phase}/accuracy_taught": taught,
    f"{phase}/reward_mean": reward,
  }


def pixels(path, color):
  """Pixels of exactly this colour, as bool[height width]."""
  from matplotlib.colors import to_rgb
  from matplotlib.image import imread

  picture = imread(path)[..., :3]
  return np.abs(picture - np.array(to_rgb(color))).max(-1) < 0.01


def test_smooth_is_centred_and_takes_fewer_at_the_ends():
  values = np.array([0.0, 3.0, 6.0, 3.0, 2.0])
  wanted = [1.5, 3.0, 4.0, 11 / 3, 2.5]
  for window in (2, 3):  # always odd
    np.testing.assert_allclose(plots.smooth(values, window), wanted)


def test_bars_are_as_long_as_the_accuracies(tmp_path):
  path = tmp_path / "report" / "arms.png"
  rows = [("alone", (0.4, 0.35, 0.45), ""), ("taught", (0.8, 0.75, 0.85), "")]
  plots.bars(rows, path, title="", colors=(plots.ALONE, plots.TAUGHT))
  # The intervals' lines cover a little of both.
  taught = pixels(path, plots.TAUGHT).sum(1).max()
  alone = pixels(path, plots.ALONE).sum(1).max()
  assert taught / alone == pytest.approx(2.0, rel=0.02)
  assert [p.name for p in path.parent.iterdir()] == ["arms.png"]


def test_the_curve_goes_where_the_numbers_go(tmp_path):
  path = tmp_path / "curve.png"
  lines = [line(i, 0.2, 0.2 + 0.006 * i, 0.01 * i) for i in range(1, 101)]
  curves.learning_curve(lines, path, phase="grpo")
  drawn = pixels(path, plots.TAUGHT)
  columns = np.flatnonzero(drawn.any(0))
  height = [np.flatnonzero(drawn[:, c]).mean() for c in columns]
  # Up in the picture is a smaller row; the label to the right is left out.
  rising = height[: int(0.8 * len(height))]
  assert rising[0] - rising[-1] > 80
  # The lone student's line is flat: a few rows hold most of its pixels.
  alone = np.sort(pixels(path, plots.ALONE).sum(1))[::-1]
  assert alone[0] > 0.8 * len(columns)


def test_few_steps_and_gaps_are_drawn(tmp_path):
  lines = [line(1, 0.4, None, 0.1), line(2, 0.4, 0.5, None)]
  path = tmp_path / "curve.png"
  curves.learning_curve(lines, path, phase="grpo")
  assert pixels(path, plots.TAUGHT).any()


def test_other_phases_are_left_out(tmp_path):
  lines = [{"phase": "sft", "step": 1, "time": 0.0, "sft/loss": 2.0}]
  path = tmp_path / "x.png"
  curves.learning_curve(lines, path, phase="grpo")
  assert not pixels(path, plots.TAUGHT).any()
  lines.append(line(1, 0.1, 0.2, 0.3))
  curves.learning_curve(lines, path, phase="grpo")
  assert pixels(path, plots.TAUGHT).any()


def test_the_student_alone_has_its_colour_where_nobody_was_taught(tmp_path):
  path = tmp_path / "curve.png"
  curves.learning_curve([line(1, 0.4, None, None)], path, phase="grpo")
  assert pixels(path, plots.ALONE).any()
  assert not pixels(path, plots.TAUGHT).any()
