"""A big step compiles for machines that nobody here has, and stays small."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_COMPILERS = pathlib.Path(
  os.environ.get("ATLAS_COMPILERS", _ROOT / ".compilers")
)
_GIB = 1 << 30

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not _COMPILERS.is_dir(),
    reason=f"no {_COMPILERS}: bash launchers/setup.sh --compile fetches it",
  ),
]


@pytest.fixture(scope="module")
def compiled():
  """Both targets at once, each in a process of its own."""
  command = [sys.executable, "-m", "tests.preflight.eight_billion"]
  started = {
    target: subprocess.Popen(
      [*command, target, str(_COMPILERS)],
      cwd=_ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for target in ("h100x4", "v5p:2x2x2")
  }
  out = {}
  for target, process in started.items():
    text, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-3000:]
    out[target] = json.loads(text.splitlines()[-1])
  return out


@pytest.mark.parametrize(
  ("target", "chips", "summed_by"),
  # Of a cube's reduce-scatter its compiler would make an all-reduce.
  [("h100x4", 4, "reduce-scatter"), ("v5p:2x2x2", 8, "all-to-all")],
)
def test_a_step_of_micro_batches_is_cut_over_the_chips(
  compiled, target, chips, summed_by
):
  found = compiled[target]
  # Gradients are cut as they are added up, and never whole on one chip.
  assert found["all_reduce"] <= 1 << 20
  # In bfloat16 each weight is sent forward and backward, each gradient once;
  # the embedding never. Keys and values of the other half of a row are little.
  head = 151936 * 4096
  weights = 2 * 4096 * ((32 + 8 + 8 + 32) * 128 + 3 * 12288) + head
  once = weights * 2 * (chips - 1) / chips
  assert found["sent"]["all-gather"] == pytest.approx(2 * once, rel=0.05)
  assert found["sent"][summed_by] == pytest.approx(once, rel=0.05)
  # Weights and two moments in float32.
  state = 3 * 4 * (weights + head) / chips
  assert found["arguments"] == pytest.approx(state, rel=0.01)
  # No mask and no scores of a whole row.
  assert found["squares"] == []
  # Neither the head (2.3 GiB in float32) nor its gradient is on one chip; the
  # largest is a part of the embedding: a quarter of it.
  size, array, source = found["largest"][0]
  assert size < 0.65 * _GIB, (array, source)
