"""The console: one live line, lines that stay, and nothing glued to either."""

import io
import logging
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from atlas_jax import directory, progress
from tests.screens import Screen, launched, seen

GRPO = {
  "reward_mean": -0.0391,
  "reward_std": 0.312,
  "accuracy_taught": 0.594,
  "accuracy_alone": 0.5625,
  "kl": 0.0123,
  "truncated_fraction": 0.02,
  "zero_variance_fraction": 0.25,
  "tokens_per_second": 2644.4,
  "grad_norm": 1.0,
}


def test_a_step_is_a_line_of_what_a_person_watches():
  steps = progress.Steps("2_grpo", 70, clock=lambda: 0.0)
  assert steps.line() == ""
  steps.update(1, GRPO)
  assert steps.line() == (
    "2_grpo 1/70 | reward -0.039 ± 0.312 | taught 59%, alone 56% | KL 0.0123"
    " | cut 2% | flat groups 25% | 2,644 tokens/s"
  )
  steps.update(2, {"reward_mean": 1.0, "reward_std": 0.5})
  assert steps.line().endswith("| reward 1.000 ± 0.500")
  sft = progress.Steps("0_sft", 2, clock=lambda: 0.0)
  sft.update(1, {"loss": 1.5, "tokens_per_second": 10.0})
  assert sft.line() == "0_sft 1/2 | loss 1.5 | 10 tokens/s"


def test_the_time_left_leaves_the_step_that_compiles_out(monkeypatch):
  monkeypatch.setenv("TZ", "UTC")
  time.tzset()
  # Step 11 compiled for 1000 s; steps 12 and 13 took 100 s each. 17 are left.
  now = iter([0.0, 1000.0, 1100.0, 1200.0, 2900.0])
  steps = progress.Steps("0_sft", 30, clock=lambda: next(now))
  for step in (11, 12, 13):
    steps.update(step, {})
  assert steps.line() == "0_sft 13/30 | 28:20 left, ends 00:48"
  steps.update(30, {})
  assert steps.line() == "0_sft 30/30 | took 48:20"


def test_an_end_on_another_day_names_the_day():
  steps = progress.Steps("0_sft", 4, clock=iter([0.0, 0.0, 3e5]).__next__)
  steps.update(1, {})
  steps.update(2, {})
  assert "166:40:00 left, ends" in steps.line()
  assert time.strftime("%a %H:%M", time.localtime(9e5)) in steps.line()


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(progress, "DRAW_EVERY_S", 0.005)
  monkeypatch.setattr(progress, "LOG_EVERY_S", 0.02)


def work(until):
  """Something that logs, prints and counts under a live line."""
  count = 0

  def line():
    nonlocal count
    count += 1
    return f"count {count} " + "x" * 80

  with progress.shown(line):
    logging.getLogger("atlas_jax").warning("a warning")
    print("half a", end="")
    time.sleep(0.02)
    print(" line")
    assert until(lambda: count > 8)


def wait(condition) -> bool:
  end = time.monotonic() + 10
  while not condition() and time.monotonic() < end:
    time.sleep(0.005)
  return condition()


def test_on_a_terminal_the_line_is_redrawn_below_what_stays(quick):
  screen = Screen(columns=40)
  with os.fdopen(os.dup(screen.fd), "w") as stream, launched(stream):
    work(lambda counted: wait(lambda: counted() and "count 7" in screen.text))
  written = screen.close()
  lines = seen(written)
  assert lines[-1] == ""  # the live line is gone
  assert lines[0].endswith("warning: a warning")
  # A line of the log may come in between: it is not glued to the half.
  assert "half a line" in lines or {"half a", " line"} <= {*lines}
  kept = [x for x in lines if "count" in x]
  assert kept and all(x[8:].startswith(" count ") for x in kept)
  # Drawn in place, and cut to the terminal: it never wraps.
  drawn = re.findall(r"\r\x1b\[K(count[^\r\n]*)\r", written)
  assert len(drawn) > 1 and {len(line) for line in drawn} == {39}


def test_a_line_within_another_is_drawn_alone(quick):
  screen = Screen()
  with (
    os.fdopen(os.dup(screen.fd), "w") as stream,
    launched(stream),
    progress.shown(lambda: "outer"),
  ):
    assert wait(lambda: "outer" in screen.text)
    with progress.shown(lambda: "inner"):
      assert wait(lambda: "inner" in screen.text)
      begun = len(screen.text)
      assert wait(lambda: screen.text[begun:].count("inner") > 5)
      drawn = screen.text[begun:]
    assert wait(lambda: screen.text.endswith("outer\r"))
  assert "Kouter" not in drawn
  assert seen(screen.close())[-1] == ""


def test_in_a_file_there_is_no_live_line_and_no_control_character(quick):
  stream = io.StringIO()
  with launched(stream):
    work(wait)
  text = stream.getvalue()
  assert not set(text) & {"\r", "\x1b"}
  assert any(" count " in x for x in text.splitlines())


def test_a_line_that_does_not_change_is_logged_once(quick):
  stream = io.StringIO()
  with launched(stream):
    with progress.shown(lambda: "step 1", at_end=True):
      assert wait(lambda: "step 1" in stream.getvalue())
      time.sleep(0.05)
    assert stream.getvalue().count("step 1") == 1
    with progress.shown(lambda: "step 2", at_end=True):
      pass
  assert stream.getvalue().endswith(" step 2\n")


def test_the_log_of_a_run_has_what_the_console_leaves_out(tmp_path):
  stream = io.StringIO()
  log = logging.getLogger("atlas_jax.serving")
  with launched(stream):
    with pytest.raises(KeyError), directory.logging_to(tmp_path):
      log.debug("sent \x1b weights")
      log.info("phase")
      raise KeyError("x")
    log.info("later")
  assert "sent" not in stream.getvalue() and "phase" in stream.getvalue()
  lines = (tmp_path / "logs" / "run.log").read_text().splitlines()
  ends = [
    r"DEBUG atlas_jax.serving: sent \x1b weights",
    "INFO atlas_jax.serving: phase",
  ]
  assert [a.endswith(b) for a, b in zip(lines, ends, strict=False)] == [
    True
  ] * 2
  assert lines[2].endswith("DEBUG atlas_jax.directory: ended by KeyError: 'x'")
  assert len(lines) == 3


def test_the_log_of_a_run_has_the_traceback_of_a_fault_of_a_file(tmp_path):
  gone = tmp_path / "gone"
  with (
    launched(io.StringIO()),
    pytest.raises(OSError),
    directory.logging_to(tmp_path),
  ):
    gone.read_text()
  traced = (tmp_path / "logs" / "run.log").read_text()
  assert "Traceback" in traced and "gone.read_text()" in traced


def test_a_run_says_where_its_results_lie(tmp_path):
  (tmp_path / "export").mkdir()
  (tmp_path / "metrics.jsonl").touch()
  assert directory.results(tmp_path) == (
    f"results:\n  {tmp_path}/export\n  {tmp_path}/metrics.jsonl"
  )


PROGRAM = """
import logging, sys, time
from atlas_jax import progress, stopping
from atlas_jax.files import FileError
from launchers import common
progress.DRAW_EVERY_S = 0.01
def main():
  log = logging.getLogger("atlas_jax")
  log.debug("what a server says")
  log.info("phase")
  with stopping.listening(), progress.shown(lambda: "at work"):
    print("ready")
    time.sleep(0.1)
    if "error" in sys.argv[0]:
      raise FileError("cannot be read")
    time.sleep(60)
common.launch(main)
"""


@pytest.mark.parametrize(
  ("flags", "end"),
  [
    (["error"], "error: cannot be read"),
    (
      ["stop", "--verbosity=1"],
      "error: stopped by SIGTERM; the same command goes on",
    ),
  ],
)
def test_the_error_is_the_last_thing_that_is_read(
  repo_root, tmp_path, flags, end
):
  name, *flags = flags
  (tmp_path / f"{name}.py").write_text(PROGRAM)
  screen = Screen()
  process = subprocess.Popen(
    [sys.executable, str(tmp_path / f"{name}.py"), *flags],
    cwd=repo_root,
    env={**os.environ, "PYTHONPATH": str(repo_root), "TERM": "xterm"},
    stdout=screen.fd,
    stderr=screen.fd,
  )
  assert wait(lambda: "\r\x1b[Kat work\r" in screen.text)
  if name == "stop":
    process.send_signal(signal.SIGTERM)
  assert process.wait(30) == (1 if name == "error" else 143)
  lines = [line.strip() for line in seen(screen.close())]
  said = "what a server says"
  debug = [x[9:] for x in lines if said in x]
  assert debug == ([f"debug: {said}"] if flags else [])
  assert [x[9:] for x in lines if "phase" in x] == ["phase"]
  assert lines[-3:] == ["ready", end, ""]
