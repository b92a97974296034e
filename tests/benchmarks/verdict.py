"""What a verdict takes, and a step of 1,024 answers to grade-school problems.

  python -m tests.benchmarks.verdict --against=../other_checkout

Scores the same answers in a process of its own each time; given the root of
another checkout, the two take turns. The answers are like a small model's: in
tags, boxed, behind ####, in sentences, with units, money, fractions and
working; a third are wrong, and one of 32 asks mathematics.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

_COUNT = 1024
_SAID = (
  "So {} in all.\n#### {}",
  "<solution>{}</solution>",
  "<solution>${}.00</solution>",
  "<solution>{} apples</solution>",
  "<solution>She has {} apples left.</solution>",
  "<solution>x = {}</solution>",
  "We add them up: the answer is **{}** dollars a week.",
  r"Thus it is \boxed{{{}}}.",
  "First 4 of them, then 7; it makes {}",
  "The answer is {:,}.",
)
_FORMULAS = (
  (r"\frac{\sqrt{2}}{2}", r"<solution>1/\sqrt{2}</solution>"),
  ("x^2 + 2x + 1", "<solution>(x+1)^2</solution>"),
  ("12", "<solution>16 - 4</solution>"),
  ("(1, 2)", "<solution>(2, 1)</solution>"),
)


def answers(seed: int):
  """(problem, text, finish reason) of each."""
  from atlas_jax.data.problems import make_problem

  rng = random.Random(seed)
  for index in range(_COUNT):
    gold, text = _FORMULAS[index // 32 % len(_FORMULAS)]
    if index % 32:
      value = rng.choice([rng.randint(1, 99), rng.randint(100, 99999)])
      gold = str(value)
      said = value + rng.choice([0, 0, rng.randint(1, 9)])
      shape = rng.choice(_SAID)
      text = shape.format(said, said)
    yield make_problem(f"question {index}", gold), text, "stop"


def score() -> dict[str, float]:
  """Seconds of a step in a warm checker, and of single verdicts."""
  from atlas_jax.teaching.answers import AnswerChecker

  items = list(answers(seed=0))
  with AnswerChecker() as checker:
    for _ in range(2):
      checker.check_many(items[:64])  # both verifiers have started
    start = time.perf_counter()
    verdicts = checker.check_many(items)
    step = time.perf_counter() - start
    each = []
    for item in answers(seed=1):
      begin = time.perf_counter()
      checker.check(*item)
      each.append(time.perf_counter() - begin)
  each.sort()
  return {
    "step_s": step,
    "median_ms": 1e3 * statistics.median(each),
    "p99_ms": 1e3 * each[int(0.99 * _COUNT)],
    "right": sum(verdict.status == "correct" for verdict in verdicts),
  }


def scored_in(root: pathlib.Path) -> dict[str, float]:
  command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--once"]
  environ = os.environ | {"PYTHONPATH": f"{root}:{root / 'third_party'}"}
  done = subprocess.run(
    command, env=environ, cwd=root, check=True, stdout=subprocess.PIPE
  )
  return json.loads(done.stdout)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--against", type=pathlib.Path)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--once", action="store_true", help="one round, as JSON")
  args = parser.parse_args()
  if args.once:
    print(json.dumps(score()))
    return
  roots = {"here": pathlib.Path(__file__).parents[2]}
  if args.against is not None:
    roots["against"] = args.against.resolve()
  found = {name: [] for name in roots}
  for _ in range(args.rounds):
    for name, root in roots.items():
      found[name].append(scored_in(root))
  for name, rounds in found.items():
    medians = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
    print(name, {k: round(v, 3) for k, v in medians.items()})


if __name__ == "__main__":
  main()
