"""Agents that are Python functions: here, or in processes of their own.

Here: an async function runs in the event loop, a sync one in a thread. What
hangs there cannot be killed: after the deadline its thread is abandoned. With
own_process each prompt under way has a process, which is killed when it is
late and replaced when it dies; its imports are part of its first prompt.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable

from atlas_jax import targets
from atlas_jax.online.agents.asking import Attempt, answered, failed
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.agents.credentials import Credentials
from atlas_jax.online.agents.processes import Groups
from atlas_jax.online.calls import threads
from atlas_jax.serving.http import TooLarge

_WORKER = (
  "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from"
  " atlas_jax.online.agents import python_worker; python_worker.main()"
)


def open_python(config: AgentConfig, where: str, credentials: Credentials):
  """The function that `config.python` names.

  Raises:
    ConfigError: it does not load; in a process of its own, that is an error
      of the first prompt.
  """
  if config.python.own_process:
    return OwnProcess(config, f"{where}.target", credentials)
  function = targets.load(config.python.target, f"{where}.target")
  return InThisProcess(config.python.target, function)


class InThisProcess:
  """A function that is called where we are."""

  repeats = True

  def __init__(self, target: str, function: Callable):
    self.target = target
    self._function = function

  def shown(self, prompt: str) -> dict:
    return {"target": self.target, "prompt": prompt}

  async def send(self, prompt: str) -> Attempt:
    try:
      answer = await threads.call(self._function, prompt)
    except (Exception, SystemExit) as error:
      return raised(error)
    return _returned(answer)

  async def aclose(self) -> None:
    """Nothing is open between prompts."""


class OwnProcess:
  """Processes that have loaded the function, each with one prompt at most."""

  repeats = True

  def __init__(self, config: AgentConfig, where: str, credentials: Credentials):
    self.target = target = config.python.target
    self._most_bytes = config.max_response_bytes
    # -P, -c: neither the current directory nor a file's own folder, with names
    # such as http.py, is on the path.
    path = json.dumps(sys.path)
    self._argv = (sys.executable, "-P", "-c", _WORKER, path, target, where)
    self._environ = dict(credentials.environ)
    self._idle: list[asyncio.subprocess.Process] = []
    self._groups = Groups()

  def shown(self, prompt: str) -> dict:
    return {"target": self.target, "prompt": prompt, "own_process": True}

  async def send(self, prompt: str) -> Attempt:
    process = await self._ready()
    try:
      kind, value = await _exchange(process, prompt, self._most_bytes)
    except TooLarge as error:
      await self._groups.kill(process)
      return failed(str(error))
    except (EOFError, ConnectionError):
      await self._groups.kill(process)
      return failed(f"its process died ({_ending(process.returncode)})")
    except BaseException:
      await self._groups.kill(process)
      raise
    self._idle.append(process)
    if kind == "answer":
      return _returned(value)
    return failed(value, again=kind == "transient")

  async def _ready(self) -> asyncio.subprocess.Process:
    while self._idle:
      process = self._idle.pop()
      if process.returncode is None:
        return process
      self._groups.forget(process)
    return await self._start()

  async def _start(self) -> asyncio.subprocess.Process:
    return await self._groups.start(
      *self._argv, stdin=PIPE, stdout=PIPE, env=self._environ
    )

  async def aclose(self) -> None:
    idle, self._idle = self._idle, []
    for process in idle:
      await self._groups.kill(process)
    await self._groups.aclose()


async def _exchange(
  process, prompt: str, most_bytes: int
) -> tuple[str, str | None]:
  """One prompt to a worker, one (kind, value) back.

  Raises:
    TooLarge: it has more bytes.
    EOFError, ConnectionError: the process died.
  """
  content = prompt.encode()
  process.stdin.write(len(content).to_bytes(8, "big") + content)
  await process.stdin.drain()
  size = int.from_bytes(await process.stdout.readexactly(8), "big")
  if size > most_bytes:
    raise TooLarge(most_bytes)
  return json.loads(await process.stdout.readexactly(size))


def described(error: BaseException) -> tuple[str, bool]:
  """What a function raised, and whether that may go away by itself."""
  text = f"{type(error).__name__}: {error}"
  return text, isinstance(error, ConnectionError | TimeoutError)


def raised(error: BaseException) -> Attempt:
  """The attempt in which the function raised `error`."""
  text, transient = described(error)
  return failed(text, again=transient)


def _returned(value) -> Attempt:
  if value is not None and not isinstance(value, str):
    return failed(f"the function returned {type(value).__name__}, not str")
  return answered(value, "what the function returned")


def _ending(code: int) -> str:
  return f"signal {-code}" if code < 0 else f"exit status {code}"
