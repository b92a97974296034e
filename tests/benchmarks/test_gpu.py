"""The benchmark for a GPU, at tiny sizes on the CPU."""

import json
import math
import os
import subprocess
import sys
import time

import pytest

from tests.benchmarks import gpu
from tests.benchmarks.gpu_stages import table

# What the image of a rented GPU lacks, as a rule; `import` then fails here too.
ABSENT = ("aiohttp", "blake3", "chex", "jaxtyping", "ml_collections")


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory, repo_root) -> tuple[list[dict], str]:
  """(rows, what was printed) of --tiny where ABSENT cannot be imported."""
  path = tmp_path_factory.mktemp("gpu")
  for name in ABSENT:
    (path / f"{name}.py").write_text("raise ImportError('absent')")
  search = [path, repo_root, repo_root / "third_party"]
  out = path / "out" / "rows.jsonl"
  command = [sys.executable, "-m", "tests.benchmarks.forked_gpu"]
  done = subprocess.run(
    [*command, "--tiny", f"--out={out}"],
    cwd=repo_root,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, search))},
    capture_output=True,
    text=True,
    check=True,
  )
  return [json.loads(x) for x in out.read_text().splitlines()], done.stdout


def _of(rows, section):
  return [r for r in rows if r["section"] == section]


@pytest.mark.slow
def test_every_stage_ends_well_and_every_number_is_finite(tiny_run):
  rows, _ = tiny_run
  stages = _of(rows, "stage")
  assert [s["name"] for s in stages] == [s.name for s in gpu.plan(tiny=True)]
  assert {(s["status"], s["reason"]) for s in stages} == {("done", "")}
  numbers = [x for r in rows for x in r.values() if isinstance(x, float)]
  assert len(numbers) > 60 and all(map(math.isfinite, numbers))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_peers_compute_our_loss_and_gradient(tiny_run, kind):
  steps = {r["who"]: r for r in _of(tiny_run[0], "step") if r["kind"] == kind}
  assert steps.keys() == {"ours", "packed", "padded"}
  ours, packed = steps["ours"], steps["packed"]
  for key in ("loss", "grad_norm"):
    for who in ("packed", "padded"):
      assert steps[who][key] == pytest.approx(ours[key], rel=1e-4), (who, key)
  # By FlexAttention itself, under the same mask function.
  assert packed["flex_loss"] == pytest.approx(ours["loss"], rel=1e-4)
  assert len({(r["tokens"], r["model_flops"]) for r in steps.values()}) == 1
  assert ours["forecast_bytes"] > 0
  assert ours["attention_s"] > 0


@pytest.mark.slow
def test_attention_is_measured_beside_the_others(tiny_run):
  rows = _of(tiny_run[0], "attention")
  places = {(r["tokens"], r["mask"]) for r in rows}
  assert places == {(n, m) for n in (64, 128) for m in ("shared", "causal")}
  for place in places:
    found = {r["who"]: r for r in rows if (r["tokens"], r["mask"]) == place}
    assert found["ours"]["both_s"] > 0 and found["ours"]["flops"] > 0
    assert found["dense"]["error"] < 1e-5
    assert "CPU" in found["flex"]["note"]
    assert ("cudnn" in found) == ("sdpa" in found) == (place[1] == "causal")


@pytest.mark.slow
def test_weights_are_published_whole_and_as_a_smaller_delta(tiny_run):
  full, delta = _of(tiny_run[0], "publish")
  assert (full["kind"], delta["kind"]) == ("full", "delta")
  assert delta["bytes"] < full["bytes"] / 4
  assert full["hash"] == "SHA-256"  # no BLAKE3, so the stand-ins were used


@pytest.mark.slow
def test_the_table_holds_it_all(tiny_run):
  rows, printed = tiny_run
  assert table.text(rows) in printed
  for words in ("grad norm", "tokens x rows", "delta", "6 of 6 stages done"):
    assert words in printed, words


def test_a_stage_that_is_too_slow_is_ended_and_leaves_its_rows(tmp_path):
  rows = tmp_path / "rows.jsonl"
  program = (
    "import subprocess, sys, time\n"
    f"open({str(rows)!r}, 'w').write('a row')\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "time.sleep(60)"
  )
  start = time.perf_counter()
  with open(tmp_path / "log", "w+b") as log:
    status, reason = gpu.run_command(
      [sys.executable, "-c", program], dict(os.environ), 1.5, log
    )
  assert (status, reason) == ("out of time", "after 2 s")
  assert time.perf_counter() - start < 30
  assert rows.read_text() == "a row"


def test_a_stage_that_crashes_says_why(tmp_path):
  with open(tmp_path / "log", "w+b") as log:
    status, reason = gpu.run_command(
      [sys.executable, "-c", "raise ValueError('no card')"],
      *({}, 60, log),
    )
  assert (status, reason) == (
    *("failed", "exit status 1: ValueError: no card"),
  )


def test_a_stage_is_not_begun_without_its_time(tmp_path):
  rows = tmp_path / "rows.jsonl"
  stage = gpu.Stage("ours", 50, {"kinds": ["grpo"], "shape": "1.7b"})
  gpu.run_stage(stage, {"GPU_BENCHMARK_ROWS": str(rows)}, 49.0, tmp_path)
  end = json.loads(rows.read_text())
  assert (end["name"], end["status"]) == ("ours grpo 1.7b", "not begun")
  assert end["reason"] == "49 of 50 s were left"


def test_the_plan_fits_a_lease_of_ten_minutes():
  stages = gpu.plan(tiny=False)
  assert sum(s.seconds for s in stages) <= 550
  assert stages[0].name == "ours grpo 1.7b"


@pytest.mark.parametrize(
  ("card", "tera"),
  [
    ("NVIDIA H100 80GB HBM3", 989),
    ("NVIDIA H100 PCIe", 756),
    ("NVIDIA H200", 989),
    ("NVIDIA A100-SXM4-80GB", 312),
    ("NVIDIA L4", 121),
    ("NVIDIA L40S", 362),
    ("CPU, tiny sizes", None),
  ],
)
def test_the_peak_of_a_card_is_found_by_its_name(card, tera):
  assert table.peak_flops(card) == (tera and tera * 1e12)


def test_the_table_of_a_run_that_lost_a_stage():
  rows = [
    {"section": "card", "name": "NVIDIA H100 80GB HBM3", "jax": "0.11.2"},
    {
      "section": "step",
      **{"kind": "grpo", "shape": "1.7b", "who": "ours", "how": "remat full"},
      **{"step_s": 2.0, "tokens": 30000, "model_flops": 989e12},
      **{"peak_bytes": 3 << 30, "forecast_bytes": 3 << 30, "loss": 0.1},
      **{"grad_norm": 1.0, "attention_s": 0.6},
    },
    {
      "section": "stage",
      **{"name": "publishing 1.7b", "status": "failed", "reason": "no disk"},
    },
  ]
  text = table.text(rows)
  # 15,000 tokens a second; half of the peak; 3 GiB, as forecast.
  assert "15000     50.0%  1.00    3.00  3.00      30%" in text
  assert "above the 25% from which a kernel of our own is worth" in text
  assert "publishing 1.7b: failed, no disk" in text
