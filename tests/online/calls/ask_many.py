"""Asks a server many things and prints what came of it: a run to be killed.

  python -m tests.online.calls.ask_many URL DIRECTORY ROUNDS TIMEOUT_S [CAPS]

CAPS are those of the run, as JSON.

Each round asks 8 questions at one time; the next one waits for it. The
replies of a round go into the questions of the next.
"""

import asyncio
import dataclasses
import json
import logging
import os
import pathlib
import sys

from atlas_jax.online.calls.calls import Request
from atlas_jax.online.calls.ledger import BudgetSpent, Caps
from atlas_jax.online.calls.model_config import ChatModelConfig
from atlas_jax.online.calls.models import open_model
from atlas_jax.online.calls.record import Record

WIDTH = 8


async def ask(model, text: str):
  messages = ({"role": "user", "content": text},)
  try:
    return await model.ask(Request("student", messages, 20, 0.0, seed=1))
  except BudgetSpent:
    return None


async def main(url, directory: pathlib.Path, rounds, timeout_s, caps: Caps):
  record = Record(directory / "record.sqlite")
  ledger = record.ledger(caps)
  model = open_model(
    ChatModelConfig(
      url=url,
      model="stub",
      api_key_env="STUB_KEY",
      timeout_s=timeout_s,
      retries=8,
      price_in=1.0,
      price_out=2.0,
    ),
    where="config.student",
    environ=os.environ,
    ledger=ledger,
    record=record,
    endpoint="stub",
  )
  texts, said = [], ""
  for n in range(rounds):
    replies = await asyncio.gather(
      *[
        ask(model, f"round {n} question {i} after {said}") for i in range(WIDTH)
      ]
    )
    texts += [r and (r.status, r.text) for r in replies]
    said = str(sum(len(r.text or "") for r in replies if r is not None))
  await model.aclose()
  spent, lost = ledger.spent, dataclasses.asdict(ledger.lost)
  spend = {x: getattr(spent, x) for x in ("calls", "tokens", "dollars")}
  found = {"texts": texts, "costs": record.costs(), "lost": lost}
  print(json.dumps(found | spend))
  record.close()


if __name__ == "__main__":
  logging.basicConfig(level=logging.DEBUG)
  asyncio.run(
    main(
      sys.argv[1],
      pathlib.Path(sys.argv[2]),
      int(sys.argv[3]),
      float(sys.argv[4]),
      Caps(**json.loads(sys.argv[5]) if sys.argv[5:] else {}),
    )
  )
