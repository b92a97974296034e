"""What guides print of results is what the committed outcomes give."""

import json
import re

import pytest

from atlas_jax.errors import AtlasError
from atlas_jax.reports import reading
from tests.reports import run_files
from tests.results import collecting, printing

GUIDES = printing.guides()
FILES = sorted(printing.ROOT.glob("*/**/results/*.json"))
BLOCKS = [
  (path, found)
  for path in GUIDES
  for found in printing.MARKED.finditer(path.read_text(encoding="utf-8"))
]


def named(value) -> str:
  path, found = value
  return f"{path.parent.name}-{found[2]}".replace(" ", "-").replace("/", "-")


@pytest.mark.parametrize("block", BLOCKS, ids=named)
def test_a_printed_table_is_what_its_outcomes_give(block):
  _, found = block
  again = printing.rendered(found[0])
  assert again.count("\n") > 3
  assert found[0] == again, "python -m tests.results write"


def test_every_file_is_printed_and_small():
  printed = {printing.ROOT / found[2].split()[1] for _, found in BLOCKS}
  assert set(FILES) == printed and len(printed) > 0
  for path in FILES:
    assert path.stat().st_size <= collecting.LARGEST
    assert not re.search(r"/(root|work|home|tmp)/", path.read_text())


@pytest.fixture
def workdir(tmp_path):
  lines = run_files.attempts([(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
  run_files.write_run(tmp_path, lines)
  started = {
    "Command": f"train --workdir={tmp_path}/a",
    "Started": "2026-11-30 06:33:14+00:00",
    "Versions": "jax 1",
    "Python": "3.12",
  }
  (tmp_path / "started.json").write_text(json.dumps(started))
  return tmp_path


def test_a_run_is_kept_without_its_place(workdir):
  run = json.loads(json.dumps(collecting.collect(workdir, workdir)))
  assert run["command"] == "train --workdir=runs/a"
  taught = run["arms"][run_files.AFTER]
  assert (taught["correct"], taught["completed"]) == ("1011", "1111")
  assert run["arms"][reading.ALONE]["correct"] == "0110"
  assert {one["at"] for one in run["samples"]} == {0, 1, 2, 3}
  assert printing.still_right(run, run_files.AFTER).startswith("50.0% [9.5,")
  table = printing.evaluation({"a": run}, "a")
  assert "| Gain over alone, points [95%] | – | +25.0 [" in table
  table = printing.arms({"a": run}, "a")
  assert "| even (2) | odd (2) |" in table
  assert "| 100.0% [34.2, 100.0] | 50.0% [9.5, 90.5] | 50.0% [9.5," in table
  table = printing.less({"a": run}, "a")
  assert "| all (4) | +25.0 [-50.0, 100.0] | 2 | 1 |" in table
  assert "that the teaching states is none (4) | +25.0 [" in table
  run["arms"][run_files.AFTER]["leaked"] = "1000"
  assert "states is none (4) | +0.0 [" in printing.less({"a": run}, "a")


def test_a_table_shows_each_changed_outcome(workdir):
  run = collecting.collect(workdir)
  before = printing.evaluation({"a": run}, "a")
  run["arms"][run_files.AFTER]["correct"] = "1010"
  assert printing.evaluation({"a": run}, "a") != before


def test_numbers_that_are_not_the_reports_are_refused(workdir):
  report = next((workdir / "report").glob("*_evaluate.json"))
  report.write_text(report.read_text().replace("0.25", "0.5"))
  with pytest.raises(AtlasError, match="gain of teacher after grpo"):
    collecting.collect(workdir)


def test_a_hash_is_of_what_decides_a_run():
  one = {"seed": 0, "teacher": {"path": "/a"}, "template_date": "2026-01-01"}
  other = {"seed": 0, "teacher": {"path": "/b"}, "template_date": "2026-01-02"}
  assert collecting.config_hash(one) == collecting.config_hash(other)
  assert collecting.config_hash(one) != collecting.config_hash(
    {**one, "seed": 1}
  )
