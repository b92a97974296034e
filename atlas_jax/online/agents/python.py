"""Agents that are Python functions: here, or each time in a new process.

Here: an async function runs in the event loop, a sync one in a thread. What
hangs there cannot be killed: after the deadline its thread is abandoned; and
prompts share what the function keeps. With own_process it is a command.
"""

import json
import os
import sys
from collections.abc import Callable

from atlas_jax import targets
from atlas_jax.online.agents import python_worker
from atlas_jax.online.agents.command import CommandAgent, how_it_ended
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.calls.calls import Answer, CallFailed
from atlas_jax.online.calls.cleaning import cleaned, decoded
from atlas_jax.online.calls.functions import FunctionCalls
from atlas_jax.online.calls.variables import Credentials
from atlas_jax.terminal import printable


def asking(target: str, function: Callable) -> FunctionCalls:
  """A function of the prompt, called where we are."""
  return FunctionCalls(target, function, lambda asked: (asked.prompt,), _answer)


def open_python(config: AgentConfig, where: str, credentials: Credentials):
  """The function that `config.python` names.

  Raises:
    ConfigError: it does not load; in a process of its own, that is an error
      of the first prompt.
  """
  target, where = config.python.target, f"{where}.target"
  if not config.python.own_process:
    return asking(target, targets.load(target, where))
  # -P: no file of its folder, with names such as http.py, is on the path.
  file, path = python_worker.__file__, json.dumps(sys.path)
  return CommandAgent(
    target=target,
    argv=(sys.executable, "-P", file, path, target, where),
    prompt_by="stdin",
    env=credentials.environ,
    directory=os.getcwd(),
    most_bytes=config.max_response_bytes,
    read=_ended,
  )


async def _ended(status: int, stdout: bytes, stderr: bytes) -> Answer:
  # A user's own program has a plain stderr, and a terminal obeys what it shows.
  sys.stderr.write(printable(stderr.decode(errors="replace")))
  if status not in (0, python_worker.FAILED, python_worker.PASSES):
    died = f"its process died ({how_it_ended(status)})"
    raise CallFailed(died, again=False)
  said = decoded(stdout, "what it returned")
  if status:
    raise CallFailed(said, again=status == python_worker.PASSES)
  return _answer(said)


def _answer(said: str | None) -> Answer:
  read = "what the function returned"
  return Answer(cleaned(said or ""), None, read=read, final=True)
