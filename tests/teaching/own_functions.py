"""Verifiers and terms of the reward as a user writes them."""

import asyncio
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time


def half(question, gold, response):
  return 0.5 if gold in response else 0.0


def same(question, gold, response):
  return response == gold


def silent(question, gold, response):
  return None


async def later(question, gold, response):
  await asyncio.sleep(0)
  return len(question + gold + response) / 100


def odd(question, gold, response):
  return {"nan": float("nan"), "high": 1.5, "text": "0.5", "list": [1]}[gold]


def divides(question, gold, response):
  return int(gold) / int(response)


def leaves(question, gold, response):
  sys.exit("enough")


def cancelled(question, gold, response):
  raise asyncio.CancelledError("within")


def dies(question, gold, response):
  os._exit(3)


def _square(x):
  return x * x


def runs_tests(question, gold, response):
  """What the lock would refuse: a file, a program, processes."""
  path = pathlib.Path(gold)
  path.write_text(response)
  done = subprocess.run([sys.executable, str(path)], check=False)
  with multiprocessing.get_context("fork").Pool(1) as pool:
    return done.returncode == 0 and pool.map(_square, [3]) == [9]


def hangs(question, gold, response):
  """Leaves the number of a child in `gold`."""
  child = subprocess.Popen(["sleep", "600"])
  pathlib.Path(gold).write_text(str(child.pid))
  time.sleep(600)


def brevity(one):
  return -len(one.teaching.text.split())


def improved(one):
  assert one.reward.parts["improvement"] == one.verdict.score / 2
  assert "short" in one.reward.parts
  return sum(v.score for v in one.baseline_verdicts)


def refuses(one):
  if "carry" in one.teaching.text:
    raise ValueError(f"no\ncarry in {one.problem.question}")
  return 1.0
