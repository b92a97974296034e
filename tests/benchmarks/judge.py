"""How often a judge says what the exact checker says, on 100 problems.

  python -m tests.benchmarks.judge --problems=gsm8k/test.jsonl \
    --model=models/smollm2-135m
  python -m tests.benchmarks.judge --problems=... --judge=my_judge.py:judge

Half of the responses are the worked solutions of the data set, the other half
the same with another result. --model: a directory that transformers loads,
asked greedily behind a server on this machine, by configs/judge.py.
"""

import argparse
import pathlib
import random
import tempfile
import time

from atlas_jax.config import DataConfig
from atlas_jax.data import sources
from atlas_jax.data.problems import make_problem
from atlas_jax.teaching.answers import AnswerChecker
from tests.online.stub_server import StubServer


def generate(path: str):
  """messages -> what the model at `path` says."""
  import torch
  from transformers import AutoModelForCausalLM, AutoTokenizer

  torch.set_num_threads(1)
  tokenizer = AutoTokenizer.from_pretrained(path)
  model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

  def answer(messages) -> str:
    ids = tokenizer.apply_chat_template(
      messages, add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    with torch.inference_mode():
      out = model.generate(ids, max_new_tokens=64, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)

  return answer


def responses(path: str, count: int):
  """(problem, response) of each, half of them with another result."""
  rng = random.Random(0)
  config = DataConfig(source="jsonl", path=path)
  for index, row in enumerate(sources.read(config)[:count]):
    work, _, gold = row.answer.rpartition("####")
    gold = gold.strip().replace(",", "")
    said = int(gold) + (index % 2) * rng.randint(1, 9)
    problem = make_problem(row.question, gold)
    yield problem, f"{work.strip()}\nThe answer is {said}."


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--problems", required=True, help="lines of GSM8K")
  parser.add_argument("--count", type=int, default=100)
  parser.add_argument("--processes", type=int, default=1)
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument("--judge", help="FILE:NAME")
  which.add_argument("--model", help="a model directory")
  args = parser.parse_args()
  items = list(responses(args.problems, args.count))
  if args.judge is not None:
    measure(items, args.judge, args.processes)
    return
  with (
    StubServer(generate(args.model)) as server,
    tempfile.TemporaryDirectory() as folder,
  ):
    file = pathlib.Path(folder, "local_judge.py")
    file.write_text(
      "from configs.judge import Judge\n"
      f"judge = Judge('openai/stub', url='{server.url}/v1', key='none',"
      f" max_dollars=None, cache='{folder}/judge.sqlite', timeout_s=100)\n"
    )
    measure(items, f"{file}:judge", args.processes)


def measure(items, target: str, processes: int) -> None:
  data = DataConfig(own_processes=processes, own_deadline_s=120.0)
  begin = time.perf_counter()
  with AnswerChecker(data=data) as checker:

    def scores(verifier):
      return [
        v.score
        for v in checker.check_many(
          (make_problem(p.question, p.answer, verifier=verifier), text, "stop")
          for p, text in items
        )
      ]

    exact, judged = scores("answer"), scores(target)
    if checker.failure is not None:
      print("the last failure:", checker.failure)
  pairs = [
    (e > 0.5, j > 0.5)
    for e, j in zip(exact, judged, strict=True)
    if j is not None
  ]
  agreed = sum(e == j for e, j in pairs)
  print(
    f"{len(items)} problems, {sum(exact):g} right by the exact checker;"
    f" no verdict of the judge on {len(items) - len(pairs)}; agreement on"
    f" {agreed} of the other {len(pairs)}; called right:"
    f" {sum(j for e, j in pairs if e)} of {sum(e for e, _ in pairs)} right,"
    f" {sum(j for e, j in pairs if not e)} of"
    f" {sum(not e for e, _ in pairs)} wrong;"
    f" {time.perf_counter() - begin:.0f} s"
  )


if __name__ == "__main__":
  main()
