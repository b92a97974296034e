"""What a person reads while a run trains, on a terminal and in a file."""

import io
import re

from tests.phases import small_sft
from tests.screens import launched, seen


def ends(workdir) -> list[str]:
  names = ("export", "metrics.jsonl", "logs/run.log")
  return ["results:", *(f"  {workdir}/{name}" for name in names), ""]


def test_a_run_on_a_terminal(whole):
  with whole.with_name("console").open(newline="") as file:
    written = file.read()
  drawn = re.findall(r"\r\x1b\[K(0_sft \d/6[^\r\n]*)\r", written)
  assert drawn and all(" | loss " in line for line in drawn)
  lines = seen(written)
  assert lines[-5:] == ends(whole)
  # Each line of the log begins with a clock: nothing is glued to another.
  log = [line[9:] for line in lines[:-5] if re.match(r"\d\d:\d\d:\d\d ", line)]
  assert log == [line[9:] for line in lines[:-5]]
  (last,) = [line for line in log if line.startswith("0_sft 6/6 | took 0:")]
  order = ["phase sft (1 of 2)", last, "phase export (2 of 2)"]
  assert [line for line in log if line in order] == order


def test_a_run_that_goes_on_in_a_file(model, whole):
  stream = io.StringIO()
  with launched(stream):
    small_sft.run(model, whole)
  text = stream.getvalue()
  assert not set(text) & {"\r", "\x1b"}
  assert text.splitlines()[-4:] == ends(whole)[:4]
  assert "0_sft continues from step 6 of 6" in text
  log = (whole / "logs" / "run.log").read_text()
  assert "INFO atlas_jax.phases.training_phase: 0_sft continues" in log
