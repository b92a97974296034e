"""What a run loses when an engine, and a whole server, is killed in a step.

  python -m tests.benchmarks.killed_servers --directory=runs/killed

4 GRPO steps of a tiny model on vLLM servers of the run's own: one server of two
engines for the teacher, one for the student. First undisturbed; then an engine
of the teacher is killed (-9) once step 1 is done, and the student's whole
server once step 2 is. A line of JSON for each run: the seconds from one step's
numbers to the next one's, of which the first has the servers' start and SFT;
for the second also the restarts, and whether metrics and episodes are those of
the first, so nothing was lost or counted twice. The first run is kept.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import time

import psutil

from atlas_jax.serving.supervisor import descendants
from tests import processes
from tests.phases import road, tiny_road

STEPS = 4
FLAGS = (
  "--config.phases=('sft','grpo')",
  f"--config.grpo.steps={STEPS}",
  "--config.grpo.evaluate_every=None",
  "--config.evaluate.constant_teachings=()",
  "--config.serving.teacher.replicas=2",
)


def engine_of(process) -> int:
  """The last engine of a server that has several."""
  named = {psutil.Process(p).name(): p for p in descendants(process.pid)}
  return named[max(n for n in named if n.startswith("VLLM::EngineCor"))]


def run(model, workdir, victims: dict) -> dict:
  """A run in which victims[step](process) is killed after each such step."""
  with open(f"{workdir}.log", "wb") as out:
    process = subprocess.Popen(
      [
        *(sys.executable, "-m", "launchers.train"),
        *road.config_flags(model, workdir),
        *FLAGS,
      ],
      stdout=out,
      stderr=subprocess.STDOUT,
    )
  seconds, begin = [], time.perf_counter()
  for step in range(1, STEPS + 1):
    road.wait_for(lambda: step in road.grpo_steps(workdir), process)  # noqa: B023
    seconds.append(round(time.perf_counter() - begin, 1))
    begin = time.perf_counter()
    if step in victims:
      processes.kill(victims[step](process), signal.SIGKILL)
  assert process.wait(300) == 0, road.log_of(workdir)[-4000:]
  said = road.log_of(workdir).splitlines()
  return {
    "seconds": seconds,
    "restarts": [line for line in said if "restart " in line],
  }


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--directory", type=pathlib.Path, required=True)
  directory = parser.parse_args().directory
  model, quiet, killed = (directory / x for x in ("model", "quiet", "killed"))
  directory.mkdir(parents=True)  # a new one: what is there is kept
  tiny_road.write_model(model)
  print(json.dumps(run(model, quiet, {})), flush=True)
  victims = {
    1: engine_of,
    2: lambda process: road.server_of(process, "student"),
  }
  line = run(model, killed, victims)
  line["same_metrics"] = road.numbers(quiet) == road.numbers(killed)
  line["same_episodes"] = road.episodes(quiet) == road.episodes(killed)
  print(json.dumps(line), flush=True)


if __name__ == "__main__":
  main()
