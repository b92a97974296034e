"""Plays a script: what a model or an agent of any kind says, call by call.

The folder of ATLAS_PLAYED holds `script`, a list of words of which the last
one is repeated, and `count`, with a letter for each call. The word busy is a
failure that passes by, hang no answer at all; any other is said.
"""

import json
import os
import pathlib
import sys
import time


def word() -> str:
  """The next word of the script."""
  folder = pathlib.Path(os.environ["ATLAS_PLAYED"])
  with open(folder / "count", "a", encoding="utf-8") as file:
    file.write("x")
    file.flush()
    made = os.path.getsize(file.name)
  script = json.loads((folder / "script").read_text(encoding="utf-8"))
  return script[min(made, len(script)) - 1]


def agent(prompt: str) -> str:
  """A python agent."""
  said = word()
  if said == "busy":
    raise ConnectionError("busy")
  if said == "hang":
    time.sleep(20)
  return said


def model(messages, sampling) -> str:
  """A callable model."""
  return agent(messages[-1]["content"])


if __name__ == "__main__":
  try:
    sys.stdout.write(agent(sys.stdin.read()))
  except ConnectionError:
    sys.exit(75)
