"""One table of what a GPU does with our kernels, our steps, and PyTorch's.

  python -m tests.benchmarks.gpu            on a machine with a CUDA GPU
  python -m tests.benchmarks.gpu --tiny     the same at tiny sizes, on a CPU
  python -m tests.benchmarks.gpu --table    what the last one has left

It needs jax with CUDA, flax, optax, orbax, torch, transformers and what these
bring; tokamax is measured where it is installed, and other packages of ours
have stand-ins. Each stage is a process of its own, which frees the card; every
row goes to --out as soon as it is known, and a stage that crashes or runs out
of its time leaves its rows there, with the reason. A stage is not begun when
less than it is expected to take is left of --seconds, so the most useful ones
come first. The expected seconds below add up to less than the ten minutes of
--seconds; nobody has measured them yet. One GPU is used, the first.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from tests.benchmarks.gpu_stages import table

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_LEFT_S = 5  # of --seconds, to print the table in


@dataclasses.dataclass(frozen=True)
class Stage:
  module: str
  seconds: int  # expected; it is ended at twice that
  arguments: dict

  @property
  def name(self) -> str:
    values = [
      "+".join(v) if isinstance(v, list) else str(v)
      for v in self.arguments.values()
    ]
    return " ".join([self.module, *values])


def _steps(shape: str, kind: str, seconds: tuple[int, int, int]) -> list[Stage]:
  """A step of ours, and the same of both peers."""
  asked = {"kinds": [kind], "shape": shape}
  ours, padded, packed = seconds
  return [
    Stage("ours", ours, asked),
    Stage("peers", packed, {"who": "packed", **asked}),
    Stage("peers", padded, {"who": "padded", **asked}),
  ]


def plan(tiny: bool) -> list[Stage]:
  """The stages, the most useful first."""
  if tiny:
    both = {"kinds": ["grpo", "sft"], "shape": "tiny"}
    return [
      Stage("ours", 60, both),
      Stage("peers", 60, {"who": "packed", **both}),
      Stage("peers", 60, {"who": "padded", **both}),
      Stage("attentions", 60, {"library": "jax", "shape": "tiny"}),
      Stage("attentions", 60, {"library": "torch", "shape": "tiny"}),
      Stage("publishing", 60, {"shape": "tiny"}),
    ]
  return [
    *_steps("1.7b", "grpo", (50, 35, 40)),
    Stage("attentions", 55, {"library": "jax", "shape": "1.7b"}),
    Stage("attentions", 30, {"library": "torch", "shape": "1.7b"}),
    *_steps("0.6b", "grpo", (40, 20, 30)),
    *_steps("1.7b", "sft", (40, 25, 25)),
    Stage("publishing", 30, {"shape": "1.7b"}),
    *_steps("0.6b", "sft", (35, 20, 25)),
    Stage("ours", 40, {"kinds": ["grpo"], "shape": "1.7b", "remat": "dots"}),
  ]


def environment(tiny: bool, rows: pathlib.Path, cache: str) -> dict[str, str]:
  """Of every stage. Programs are compiled once for all of them."""
  out = {
    **os.environ,
    "GPU_BENCHMARK_ROWS": str(rows.resolve()),
    "PYTHONPATH": os.pathsep.join(
      filter(None, [os.environ.get("PYTHONPATH"), str(_ROOT)])
    ),
    "HF_HUB_OFFLINE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
  }
  # Preflight compiles the step to forecast its memory; the step finds it.
  out.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
  out["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  out["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
  if tiny:
    out |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    out |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "OMP_NUM_THREADS": "1"}
  else:
    out["CUDA_VISIBLE_DEVICES"] = out.get("CUDA_VISIBLE_DEVICES", "0")
  return out


def run_command(
  command: list[str], env: dict[str, str], limit: float, log
) -> tuple[str, str]:
  """(status, reason); all processes of a command that is too slow are ended."""
  process = subprocess.Popen(
    *(command,),
    cwd=_ROOT,
    env=env,
    stdout=log,
    stderr=log,
    start_new_session=True,
  )
  try:
    code = process.wait(limit)
  except subprocess.TimeoutExpired:
    return "out of time", f"after {limit:.0f} s"
  finally:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
  if code == 0:
    return "done", ""
  log.seek(0)
  lines = log.read().decode(errors="replace").strip().splitlines()
  last = lines[-1][:200] if lines else "it said nothing"
  return "failed", f"exit status {code}: {last}"


def run_stage(
  stage: Stage, env: dict[str, str], left: float, logs: pathlib.Path
) -> None:
  """Runs a stage and adds how it ended to the rows of the stage itself."""
  start, rows = time.perf_counter(), pathlib.Path(env["GPU_BENCHMARK_ROWS"])
  if left < stage.seconds:
    status, reason = "not begun", f"{left:.0f} of {stage.seconds} s were left"
  else:
    command = [sys.executable, "-m", "tests.benchmarks.gpu_stages.run"]
    command += [stage.module, json.dumps(stage.arguments)]
    limit = min(2 * stage.seconds, left)
    with open(logs / f"{stage.name.replace(' ', '_')}.log", "w+b") as log:
      status, reason = run_command(command, env, limit, log)
  end = {
    "section": "stage",
    **{"name": stage.name, "status": status, "reason": reason},
    "seconds": round(time.perf_counter() - start, 1),
  }
  with open(rows, "a") as f:
    f.write(json.dumps(end) + "\n")
  print(f"{stage.name}: {status} {reason} {end['seconds']} s", flush=True)


def card() -> str | None:
  """The name of the GPU; None where there is none."""
  asked = (
    ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
    [sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"],
  )
  for command in asked:
    try:
      done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True
      )
    except (OSError, subprocess.SubprocessError):
      continue
    return done.stdout.splitlines()[0].strip()
  return None


def _versions() -> dict[str, str]:
  out = {}
  for name in ("jax", "torch", "transformers", "tokamax"):
    try:
      out[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      out[name] = "absent"
  return out


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--tiny", action="store_true", help="on the CPU")
  parser.add_argument("--table", action="store_true", help="print, run nothing")
  parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path("runs/gpu_benchmark.jsonl")
  )
  parser.add_argument("--seconds", type=float, default=590, help="for all")
  args = parser.parse_args()
  if not args.table:
    start = time.perf_counter()
    name = "CPU, tiny sizes" if args.tiny else card()
    if name is None:
      parser.error("no CUDA GPU was found; --tiny runs on a CPU")
    stages = plan(args.tiny)
    first = {"section": "card", "name": name, **_versions()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(first) + "\n")
    logs = args.out.resolve().with_suffix(".logs")
    logs.mkdir(exist_ok=True)
    expected = sum(stage.seconds for stage in stages)
    print(f"{name}: {len(stages)} stages, about {expected} s", flush=True)
    with tempfile.TemporaryDirectory() as cache:
      env = environment(args.tiny, args.out, cache)
      for stage in stages:
        spent = time.perf_counter() - start
        run_stage(stage, env, args.seconds - _LEFT_S - spent, logs)
  lines = args.out.read_text().splitlines()
  print(table.text([json.loads(line) for line in lines]))


if __name__ == "__main__":
  main()
