"""Whether 1, 2 and 4 trainer processes on several servers do the same.

  python -m tests.benchmarks.many_servers --directory=runs/many

10 SFT and 3 GRPO steps of a tiny model on 4 devices (fsdp 2, data 2), with
stand-ins for vLLM that answer by request and version: one process with one
teacher and one student server, then 1, 2 and 4 processes with two of each. One
line of JSON for each run: its seconds, whether all episodes are those of the
first, the largest relative difference of a metric, and which versions each
teacher took.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

from atlas_jax import metrics
from atlas_jax.data.chat import ChatTokenizer
from tests.phases import small_sft, stand_in_run, tiny_road
from tests.phases.stand_in_servers import serve

DEVICES = 4
CHANGES = {
  **stand_in_run.CHANGES,
  "phases": "('sft','grpo')",
  "sft.steps": 10,
  "grpo.steps": 3,
  "grpo.evaluate_every": None,
  "evaluate.constant_teachings": "()",
  "mesh.fsdp": 2,
  "mesh.data": 2,
}
UNEQUAL = (*stand_in_run.CLOCKS, "_asked", "publish_bytes", "memory_gb")


def run(model, workdir, processes: int, count: int) -> dict:
  """A run of so many processes, with so many servers of each role."""
  encode = ChatTokenizer.from_dir(model).encode
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  with contextlib.ExitStack() as stack:
    found = [
      stack.enter_context(serve(i < count, encode)) for i in range(2 * count)
    ]
    urls = [url for url, _ in found]
    flags = small_sft.flags(
      model,
      workdir,
      **{key.replace(".", "__"): value for key, value in CHANGES.items()},
      student__path=model,
      serving__teacher__urls=tuple(urls[:count]),
      serving__student__urls=tuple(urls[count:]),
    )
    several = [
      f"--coordinator=127.0.0.1:{port}",
      f"--num_processes={processes}",
    ]
    each = f"--xla_force_host_platform_device_count={DEVICES // processes}"
    begin = time.perf_counter()
    started = [
      subprocess.Popen(
        [
          *(sys.executable, "-m", "launchers.train", *flags),
          *([*several, f"--process_id={rank}"] if processes > 1 else []),
        ],
        env=os.environ | {"XLA_FLAGS": each},
        stdout=subprocess.DEVNULL if rank else sys.stderr,
        stderr=subprocess.STDOUT,
      )
      for rank in range(processes)
    ]
    assert [p.wait() for p in started] == [0] * processes
    return {
      "processes": processes,
      "servers": f"{count} + {count}",
      "seconds": round(time.perf_counter() - begin, 1),
      "versions": [state["updates"] for _, state in found[:count]],
    }


def told(workdir) -> tuple[list[dict], list[dict]]:
  """(metrics, episodes) without clocks."""
  numbers = [
    {k: v for k, v in line.items() if not k.endswith(UNEQUAL)}
    for line in metrics.lines(workdir / "metrics.jsonl")
  ]
  episodes = list(metrics.lines(workdir / "episodes" / "1_grpo.jsonl"))
  return numbers, [{**line, "seconds": None} for line in episodes]


def furthest(ours: list[dict], others: list[dict]) -> tuple[float, str]:
  """The largest relative difference, and of which metric it is."""
  found = []
  for a, b in zip(ours, others, strict=True):
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    for key, value in a.items():
      if isinstance(value, str):
        assert value == b[key]
      elif value != b[key]:
        largest = max(abs(value), abs(b[key]))
        found.append((abs(value - b[key]) / largest, key))
  return max(found, default=(0.0, ""))


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--directory", type=pathlib.Path, required=True)
  directory = parser.parse_args().directory
  directory.mkdir(parents=True)  # a new one: what is there is kept
  model = tiny_road.write_model(directory / "model")
  first = None
  for processes, count in ((1, 1), (1, 2), (2, 2), (4, 2)):
    workdir = directory / f"{processes}x{count}"
    line = run(model, workdir, processes, count)
    numbers, episodes = told(workdir)
    first = first or (numbers, episodes)
    line["same_episodes"] = episodes == first[1]
    line["furthest"], line["of"] = furthest(numbers, first[0])
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
  main()
