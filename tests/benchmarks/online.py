"""What an evaluated candidate costs in calls, and how near to the ideal it is.

  python -m tests.benchmarks.online

A stub server answers after 200 ms. Three candidates meet 64 problems, one
after another; the reference's protocol takes four calls a problem for each
(baseline, probe, teaching, guided), the baseline again every time.

The ideal wall time is that of concurrency: with room for every problem, the
three calls that wait for each other (probe, teaching, guided) take 3 x 200 ms;
with room for C requests, no less than the calls over C, times 200 ms.
"""

import argparse
import dataclasses
import math
import pathlib
import tempfile
import time

from atlas_jax.online.search.config import resolve
from tests.online import small_world
from tests.online.opened_run import evaluated, opened_with
from tests.online.stub_server import StubServer


def answer(messages) -> str:
  """The scripted world; another probe gets another outline."""
  prompt = messages[-1]["content"]
  if prompt.startswith("OUTLINE in short"):
    return "in short, I add"
  return small_world.answer(messages)


def evaluate(folder, problems: int, latency_s: float, concurrency: int) -> None:
  with StubServer(answer, latency_s=latency_s) as stub:
    tree = small_world.tree(folder, stub.url, validation=problems)
    for role in ("student", "teacher", "reflection_model"):
      tree[role].concurrency = concurrency
    config = resolve(tree)
    with opened_with(config, folder / "run", folder / "record.sqlite") as run:
      before = 0
      for name in ("seed", "teacher changed", "probe changed"):
        prompts = config.prompts
        if name == "teacher changed":
          prompts = dataclasses.replace(prompts, teacher=small_world.GOOD)
        elif name == "probe changed":
          prompts = dataclasses.replace(
            prompts, student_probe="OUTLINE in short {question}"
          )
        began = time.perf_counter()
        evaluated(run, run.sets.validation, prompts)
        seconds = time.perf_counter() - began
        calls = len(stub.calls) - before
        before = len(stub.calls)
        # The baseline goes beside the probe; equal calls are made once.
        chain = min(3, round(calls / problems))
        ideal = max(chain, math.ceil(calls / concurrency)) * latency_s
        print(
          f"{name:16} concurrency {concurrency:4d}: {calls:4d} calls,"
          f" {calls / problems:.2f} a problem (reference 4.00);"
          f" {seconds:.2f} s, ideal {ideal:.2f} s"
        )


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--problems", type=int, default=64)
  parser.add_argument("--latency_s", type=float, default=0.2)
  arguments = parser.parse_args()
  for concurrency in (16, 64, 256):
    with tempfile.TemporaryDirectory() as folder:
      evaluate(
        pathlib.Path(folder),
        arguments.problems,
        arguments.latency_s,
        concurrency,
      )


if __name__ == "__main__":
  main()
