"""The life of a process that answers prompts with a user's function.

It is told sys.path, the target and its config key as arguments, and speaks
frames (8 bytes of length, then content) over what were its standard input and
output. The function's own prints go to standard error: they break no frame.
"""

import asyncio
import inspect
import json
import os
import sys

from atlas_jax import targets
from atlas_jax.online.agents.python import described


def main() -> None:
  """Answers until the other side closes."""
  prompts = os.fdopen(os.dup(0), "rb")
  _, _, target, where = sys.argv
  answers = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  with asyncio.Runner() as runner:
    while len(header := prompts.read(8)) == 8:
      prompt = prompts.read(int.from_bytes(header, "big")).decode()
      content = json.dumps(_answer(runner, target, where, prompt)).encode()
      answers.write(len(content).to_bytes(8, "big") + content)
      answers.flush()


def _answer(runner: asyncio.Runner, target: str, where: str, prompt: str):
  """(kind, value): an answer, or an error that is 'transient' or 'lasting'."""
  try:
    answer = targets.load(target, where)(prompt)
    if inspect.isawaitable(answer):
      answer = runner.run(_awaited(answer))
  except BaseException as error:
    text, transient = described(error)
    return ("transient" if transient else "lasting", text)
  if answer is not None and not isinstance(answer, str):
    return (
      "lasting",
      f"the function returned {type(answer).__name__}, not str",
    )
  return ("answer", answer)


async def _awaited(value):
  return await value
