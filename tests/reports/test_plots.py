"""The pictures: the smoothing by hand, the drawing by its pixels."""

import numpy as np
import pytest

from atlas_jax.reports import plots, tables
from tests.reports.evaluations import evaluation


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


def test_smooth_is_centred_and_leaves_nan_out():
  values = np.array([0.0, 3.0, 6.0, np.nan, 2.0])
  np.testing.assert_allclose(plots.smooth(values, 3), [1.5, 3.0, 4.5, 4.0, 2.0])
  assert np.isnan(plots.smooth(np.array([np.nan, np.nan]), 1)).all()


def test_bars_are_as_long_as_the_accuracies(tmp_path):
  path = tmp_path / "report" / "arms.png"
  plots.alone_versus_taught(evaluation(), path)
  # 0.4 and 0.8; the intervals' lines cover a little of both.
  taught = pixels(path, plots.TAUGHT).sum(1).max()
  alone = pixels(path, plots.ALONE).sum(1).max()
  assert taught / alone == pytest.approx(2.0, rel=0.02)
  assert [p.name for p in path.parent.iterdir()] == ["arms.png"]


def test_the_curve_goes_where_the_numbers_go(tmp_path):
  path = tmp_path / "curve.png"
  lines = [line(i, 0.2, 0.2 + 0.006 * i, 0.01 * i) for i in range(1, 101)]
  plots.learning_curve(lines, path, phase="grpo")
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
  plots.learning_curve(lines, path, phase="grpo")
  assert pixels(path, plots.TAUGHT).any()


def test_other_phases_are_left_out(tmp_path):
  lines = [{"phase": "sft", "step": 1, "time": 0.0, "sft/loss": 2.0}]
  with pytest.raises(tables.ReportError, match="no line of phase 'grpo'"):
    plots.learning_curve(lines, tmp_path / "x.png", phase="grpo")
  lines.append(line(1, 0.1, 0.2, 0.3))
  plots.learning_curve(lines, tmp_path / "x.png", phase="grpo")


def test_a_missing_number_is_named(tmp_path):
  broken = line(7, 0.1, 0.2, 0.3)
  del broken["grpo/reward_mean"]
  with pytest.raises(tables.ReportError, match=r"step 7 .* grpo/reward_mean"):
    plots.learning_curve([broken], tmp_path / "x.png", phase="grpo")
  result = evaluation()
  result["arms"][0]["accuracy"] = None
  with pytest.raises(tables.ReportError, match="'alone' has no accuracy"):
    plots.alone_versus_taught(result, tmp_path / "x.png")
  assert not (tmp_path / "x.png").exists()


def test_the_best_score_so_far_never_falls(tmp_path):
  path = tmp_path / "spend.png"
  points = [(10, 0.0, 0.2), (20, 0.0, 0.8), (30, 0.0, 0.4)]
  plots.score_against_spend(points, path)
  line = pixels(path, plots.TAUGHT)
  columns = np.flatnonzero(line.any(0))
  height = [np.flatnonzero(line[:, c]).mean() for c in columns]
  # Rows count from the top: it begins low, and ends as high as it ever was.
  assert height[0] > height[-1]
  assert height[-1] == pytest.approx(min(height), abs=1)


def test_an_empty_search_is_no_picture(tmp_path):
  with pytest.raises(tables.ReportError, match="no candidate"):
    plots.score_against_spend([], tmp_path / "x.png")
