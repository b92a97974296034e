"""The table of a sweep: means over seeds, differences paired by problem."""

import json
import re

import pytest

from atlas_jax.reports import curves, sweeps
from atlas_jax.teaching import statistics
from tests.reports import run_files

NAMES = ("base", "better", "lost")


@pytest.fixture
def workdir(tmp_path):
  """base: half right; better: all right; lost: one seed of two failed."""
  for seed in (0, 1):
    for name, taught in (
      ("base", (1, 0)),
      ("better", (1, 1)),
      ("lost", (0, 0)),
    ):
      scores = [(0.0, float(x)) for x in taught]
      folder = tmp_path / f"rows/{name}_seed{seed}"
      run_files.write_run(folder, run_files.attempts(scores))
      (folder / "report/index.html").touch()
  return tmp_path


@pytest.fixture
def rows(workdir):
  states = {f"{n}_seed{s}": "done" for n in NAMES for s in (0, 1)}
  states["lost_seed1"] = "failed"
  return sweeps.table_of(workdir, NAMES, states, [0, 1])


def test_a_row_is_the_mean_of_its_finished_seeds(rows):
  base, better, lost = rows
  assert (base.accuracy, base.difference) == (0.5, None)
  assert better.accuracy == 1.0
  assert better.accuracy_spread == 0.0
  assert better.difference.estimate == 0.5
  assert better.difference.low <= 0.25 and better.difference.high == 1.0
  assert lost.difference.estimate == -0.5
  assert lost.accuracy_spread is None


def test_the_table_says_what_failed(rows):
  heading, *lines = sweeps.cells(rows)
  assert heading[0] == "Row"
  assert lines[0][:4] == ["base", "2 of 2", "0.0%", "50.0% ± 0.0"]
  assert lines[2][1] == "1 of 2, seed 1 failed"
  assert lines[1][4].startswith("+50.0 [")


def test_a_row_without_a_finished_run_is_empty(workdir):
  row = sweeps.table_of(workdir, ["base"], {}, [0])[0]
  assert row.accuracy is None
  assert sweeps.cells([row])[1][1:] == [
    *("0 of 1, seed 0 not started", "–", "–", "–", "–", "–")
  ]


def test_all_files_are_written_and_link_the_reports(workdir, rows):
  (workdir / "logs").mkdir()
  (workdir / "logs/lost_seed1.log").touch()
  text = sweeps.write(workdir, rows, name="x", question="Does <it> matter?")
  assert "| better | 2 of 2 |" in text
  assert (
    json.loads((workdir / "sweep.json").read_text())["rows"][1]["difference"][
      "estimate"
    ]
    == 0.5
  )
  page = (workdir / "index.html").read_text()
  assert "Does &lt;it&gt; matter?" in page
  assert '<a href="rows/better_seed1/report/index.html">seed 1</a>' in page
  assert '<a href="logs/lost_seed1.log">log 1</a>' in page
  assert (workdir / "sweep.png").stat().st_size > 1000


def test_the_page_draws_a_curve_a_row_with_a_band_over_its_seeds(workdir, rows):
  sweeps.write(workdir, rows, name="x", question="?")
  page = (workdir / "index.html").read_text()
  figures = page.split("<figure>")[1:]
  titles = [re.findall(r">([A-Z][^<]*)</text>", svg)[-1] for svg in figures]
  # What the runs have logged.
  assert titles == [
    *("Accuracy on training problems: accuracy_taught", "KL: kl")
  ]
  for name in NAMES:
    assert f">{name}</text>" in figures[0]
  # "lost" has one finished seed, and so no band.
  assert figures[0].count('id="FillBetween') == 2
  (svg, *_) = curves.of_rows({"only": [[run_files.metrics_line(1)]]})
  assert "accuracy_taught, only</text>" in svg


def test_an_interval_over_seeds_is_wider_than_over_problems_alone():
  seeds = [[0.0] * 50, [1.0] * 50]
  found = statistics.nested_bootstrap(seeds, resamples=2000, seed=0)
  assert (found.estimate, found.low, found.high) == (0.5, 0.0, 1.0)
  one = statistics.nested_bootstrap([[0.0, 1.0] * 50], resamples=2000, seed=0)
  assert one.estimate == 0.5
  assert one.high - one.low == pytest.approx(0.2, abs=0.05)
  with pytest.raises(ValueError, match="no seed"):
    statistics.nested_bootstrap([[], []], resamples=10, seed=0)


def test_no_row_takes_the_place_of_a_first_one_that_failed(workdir):
  states = {f"{n}_seed{s}": "done" for n in ("better", "lost") for s in (0, 1)}
  rows = sweeps.table_of(workdir, NAMES, states, [0, 1])
  assert [row.difference for row in rows] == [None] * 3
