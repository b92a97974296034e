"""Seconds to judge a step's answers, those that a verifier process must judge.

  python tests/benchmarks/scoring.py --answers=1024 --rounds=5

`math` are expressions for math-verify, `reasoning_gym` sums that are spelled
otherwise than the gold one; half of each is right. Prints one line of JSON:
medians over the rounds, on the wall and of the processors (this process and the
verifiers), and the seconds until a first answer is judged. Another commit is
measured by running this file with that one's directory as PYTHONPATH.
"""

import argparse
import json
import pathlib
import statistics
import time

import reasoning_gym

from atlas_jax.data.problems import Problem, make_problem
from atlas_jax.teaching.answers import AnswerChecker


def math_items(count: int):
  for i in range(count):
    gold = rf"x^{{2}} + {i}y"
    answer = rf"{i + i % 2} y + x^2"
    yield make_problem(f"q{i}", gold), f"<solution>{answer}</solution>", "stop"


def gym_items(count: int):
  made = reasoning_gym.create_dataset("chain_sum", size=count, seed=1)
  for i in range(count):
    entry = made[i]
    meta = {"task": "chain_sum", "entry": entry}
    answer = f"{int(entry['answer']) + i % 2}.0"
    problem = Problem(
      str(i), entry["question"], entry["answer"], "reasoning_gym", meta
    )
    yield problem, f"<solution>{answer}</solution>", "stop"


def processor_s(checker: AnswerChecker) -> float:
  """What this process and the verifiers have taken of the processors."""
  spent = time.process_time()
  for process in checker._pool._processes.values():
    path = pathlib.Path(f"/proc/{process.pid}/schedstat")
    spent += int(path.read_text().split()[0]) / 1e9
  return spent


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--answers", type=int, default=1024)
  parser.add_argument("--rounds", type=int, default=5)
  arguments = parser.parse_args()
  line = {"answers": arguments.answers}
  for name, make in (("math", math_items), ("reasoning_gym", gym_items)):
    items = list(make(arguments.answers))
    with AnswerChecker() as checker:
      start = time.perf_counter()
      checker.check_many(items[:1])
      line[f"{name}_first_s"] = round(time.perf_counter() - start, 3)
      checker.check_many(items)  # the second process starts, too
      seconds, spent = [], []
      for _ in range(arguments.rounds):
        start, before = time.perf_counter(), processor_s(checker)
        verdicts = checker.check_many(items)
        seconds.append(time.perf_counter() - start)
        spent.append(processor_s(checker) - before)
    right = sum(v.status == "correct" for v in verdicts)
    assert right == sum(v.status == "wrong" for v in verdicts), verdicts[:4]
    line[f"{name}_s"] = round(statistics.median(seconds), 4)
    line[f"{name}_processor_s"] = round(statistics.median(spent), 4)
  print(json.dumps(line))


if __name__ == "__main__":
  main()
