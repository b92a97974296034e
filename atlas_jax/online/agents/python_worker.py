"""A user's function as a command: the prompt comes in, the answer goes out.

  python python_worker.py SYS_PATH TARGET WHERE

It ends with a status of `described` or `checked`. What the function prints goes
to standard error. It is quick to start: of ours it imports what loads a target.
"""

import asyncio
import inspect
import json
import os
import sys

# Of sysexits.h: a failure of a program, and one that may pass by.
FAILED, PASSES = 70, 75


def main() -> None:
  path, target, where = sys.argv[1:]
  sys.path[:] = json.loads(path)
  prompt = sys.stdin.buffer.read().decode()
  out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogatepass")
  os.dup2(2, 1)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  from atlas_jax import targets

  try:
    answer = targets.load(target, where)(prompt)
    if inspect.isawaitable(answer):
      answer = asyncio.run(_awaited(answer))
    status, said = checked(answer)
  except (Exception, SystemExit) as error:
    status, said = described(error)
  with out:
    out.write(said)
  sys.exit(status)


async def _awaited(value):
  return await value


def described(error: BaseException) -> tuple[int, str]:
  """(status, text) of what a function raised."""
  passes = isinstance(error, ConnectionError | TimeoutError)
  return PASSES if passes else FAILED, f"{type(error).__name__}: {error}"


def checked(answer) -> tuple[int, str]:
  """(status, text) of what a function returned."""
  if answer is None or isinstance(answer, str):
    return 0, answer or ""
  return FAILED, f"the function returned {type(answer).__name__}, not str"


if __name__ == "__main__":
  main()
