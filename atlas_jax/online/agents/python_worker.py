"""A user's function as a command: the prompt comes in, the answer goes out.

  python python_worker.py SYS_PATH TARGET WHERE

What it writes is the answer, or at the statuses FAILED and PASSES an error, as
calls/functions.py words it. What the function prints goes to standard error.
It is quick to start: of ours it imports what loads a target.
"""

import asyncio
import inspect
import json
import os
import sys

# A failure of a program, and one that may pass by.
FAILED, PASSES = os.EX_SOFTWARE, os.EX_TEMPFAIL


def main() -> None:
  path, target, where = sys.argv[1:]
  sys.path[:] = json.loads(path)
  prompt = sys.stdin.buffer.read().decode()
  out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogatepass")
  os.dup2(2, 1)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  from atlas_jax import targets

  try:
    said, status = targets.load(target, where)(prompt), 0
    if inspect.isawaitable(said):
      said = asyncio.run(_awaited(said))
    if said is not None and not isinstance(said, str):
      status = FAILED
      said = f"the function returned {type(said).__name__}, not str"
  except (Exception, SystemExit) as error:
    passes = isinstance(error, ConnectionError | TimeoutError)
    status = PASSES if passes else FAILED
    said = f"{type(error).__name__}: {error}"
  with out:
    out.write(said or "")
  sys.exit(status)


async def _awaited(value):
  return await value


if __name__ == "__main__":
  main()
