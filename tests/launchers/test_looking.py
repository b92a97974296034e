"""report, show and compare as a user calls them, on a small run."""

import pytest

from tests import forked
from tests.reports import run_files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """With a student that the teacher never met, which is right alone."""
  lines = run_files.attempts()
  for line in run_files.attempts(((1.0, 0.0),)):
    text = line["solution"] | {"text": "the other's words"}
    other = {"student": "other", "arm": f"other: {line['arm']}"}
    lines.append(line | other | {"solution": text})
  return run_files.write_run(tmp_path_factory.mktemp("looking") / "run", lines)


def said(launcher, run, *flags):
  done = forked.run(f"launchers.{launcher}", f"--workdir={run}", *flags)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_failures_of_a_kind_are_printed(run):
  text = said("show", run, "--failures", "--kind=odd", "-n", "1")
  assert text.startswith("== p1 sample 0: wrong\n-- problem\nquestion 1\n")
  assert text.endswith("\n1 of 2 episodes\n")


def test_what_a_student_answers_alone_is_its_own_answer(run):
  text = said("show", run, f"--arm=other: {run_files.AFTER}")
  assert "-- alone\nthe other's words\n" in text


def test_two_arms_are_compared_and_their_flips_named(run):
  text = said("compare", run, f"--against={run}", "--against_arm=student alone")
  assert "Difference, points [95%]: +0.0 [" in text
  assert text.endswith("fixed: p0\nbroken: p1\n")


def test_a_report_says_where_it_is_and_how_large(run, tmp_path):
  out = tmp_path / "a & b.html"
  assert said("report", run, f"--out={out}", f"--against={run}").endswith(
    f"{out}: {out.stat().st_size / 1e6:.1f} MB\n"
  )


@pytest.mark.parametrize(
  ("launcher", "flags", "why"),
  [
    ("show", ["--kind=odder"], "valid: even, odd"),
    ("show", ["--flip=mended"], "valid: fixed, broken"),
    ("show", ["--arm=nobody"], "no arm 'nobody'; valid: other"),
    ("compare", ["--against=/nowhere"], "/nowhere is not a run directory"),
    ("report", ["--against=/nowhere"], "/nowhere is not a run directory"),
    ("report", [f"--out={__file__}/b.html"], "test_looking.py"),
  ],
)
def test_what_is_not_there_is_one_line(run, launcher, flags, why):
  done = forked.run(f"launchers.{launcher}", f"--workdir={run}", *flags)
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ") and why in line


def test_a_line_of_another_version_is_named(tmp_path):
  lines = run_files.attempts()
  del lines[2]["solution"]["score"]
  path = run_files.write_run(tmp_path / "run", lines)
  done = forked.run("launchers.show", f"--workdir={path}")
  assert done.returncode == 1
  assert done.stderr == (
    f"error: {path}/episodes/1_evaluate.jsonl, episode 3: solution has no"
    " score; was it made by another version?\n"
  )
