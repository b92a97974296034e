"""Agents that are commands: an argv list, never a shell.

The prompt goes in by standard input, by a file, or as one argument. The
answer is what the command writes to standard output, if it ends with status 0.
It runs in a process group of its own, which is killed whole when it ends, is
late, is given up, or the run is killed. What leaves the group stays behind.
"""

import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import tempfile
from asyncio.subprocess import DEVNULL
from typing import IO

import regex

from atlas_jax.online.agents import paths
from atlas_jax.online.agents.asking import (
  Attempt,
  answer_at,
  answered,
  check_failure,
  failed,
)
from atlas_jax.online.agents.config import PROMPT, PROMPT_FILE, AgentConfig
from atlas_jax.online.agents.credentials import Credentials
from atlas_jax.online.agents.processes import Groups
from atlas_jax.online.calls import threads, told_errors
from atlas_jax.serving.http import TooLarge

# What a command gets of the environment without being asked for.
_ALWAYS = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
# MAX_ARG_STRLEN of Linux, with the NUL at the end.
_LONGEST_ARGUMENT = 128 * 1024
_LONGEST_EXCERPT = 300  # characters of an error
# Read of it: far more, so that no key is cut before it is hidden.
_LONGEST_END = 1 << 16  # bytes
_LOOK_S = 0.05  # between two looks at the size of the output


class CliAgent:
  """One command.

  Raises:
    ConfigError: a variable is missing, or output_path is not valid.
  """

  repeats = True

  def __init__(self, config: AgentConfig, where: str, credentials: Credentials):
    cli = config.cli
    self._config = cli
    self._credentials = credentials
    environ = credentials.environ
    self._env = {name: environ[name] for name in _ALWAYS if name in environ}
    for name in cli.env:
      self._env[name] = credentials.variable(name, f"{where}.env")
    self._most_bytes = config.max_response_bytes
    self._timeout_s = config.timeout_s
    self._regex = cli.output_regex and regex.compile(cli.output_regex)
    self._path = cli.output_path and paths.parse(
      cli.output_path, f"{where}.output_path"
    )
    self._failure = cli.failure_path and paths.parse(
      cli.failure_path, f"{where}.failure_path"
    )
    self._groups = Groups()
    self.target = cli.argv[0]

  def shown(self, prompt: str) -> dict:
    argv = list(self._config.argv)
    shown = {"argv": [element.replace(PROMPT, prompt) for element in argv]}
    if self._config.prompt_by != "argument":
      shown[self._config.prompt_by] = prompt
    shown["environment"] = sorted(self._env)
    return shown

  async def send(self, prompt: str) -> Attempt:
    argv = list(self._config.argv)
    if self._config.prompt_by == "argument":
      argv = [element.replace(PROMPT, prompt) for element in argv]
      longest = max(len(element.encode()) for element in argv)
      if longest >= _LONGEST_ARGUMENT:
        return failed(
          f"an argument of {longest} bytes: the system allows"
          f" {_LONGEST_ARGUMENT - 1}; set prompt_by to 'stdin' or 'file'"
        )
      if "\0" in prompt:
        return failed(
          "the prompt holds a NUL character, which no argument can carry; set"
          " prompt_by to 'stdin' or 'file'"
        )
    with contextlib.ExitStack() as stack:
      files = [
        stack.enter_context(tempfile.NamedTemporaryFile(prefix="prompt-"))
        for _ in range(3)
      ]
      if self._config.prompt_by != "argument":
        files[0].write(prompt.encode())
        files[0].flush()
        files[0].seek(0)
      if self._config.prompt_by == "file":
        name = files[0].name
        argv = [element.replace(PROMPT_FILE, name) for element in argv]
      return await self._run(argv, *files)

  async def _run(self, argv, stdin: IO, stdout: IO, stderr: IO) -> Attempt:
    try:
      # Files, not pipes: whoever keeps them open, nobody waits for them.
      process = await self._groups.start(
        *argv,
        stdin=stdin if self._config.prompt_by == "stdin" else DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=self._env,
      )
    except (OSError, ValueError) as error:
      return failed(f"{argv[0]} does not start: {error}")
    ended = asyncio.ensure_future(process.wait())
    try:
      while not (await asyncio.wait([ended], timeout=_LOOK_S))[0]:
        if max(_size(stdout), _size(stderr)) > self._most_bytes:
          break
    finally:
      await self._groups.kill(process)
    if max(_size(stdout), _size(stderr)) > self._most_bytes:
      return failed(str(TooLarge(self._most_bytes)))
    stdout.seek(0)
    content = stdout.read(self._most_bytes)
    stderr.seek(max(0, _size(stderr) - _LONGEST_END))
    return await self._read(
      process.returncode, content, stderr.read(_LONGEST_END)
    )

  async def _read(self, code: int, stdout: bytes, stderr: bytes) -> Attempt:
    if code != 0:
      text = self._credentials.hide(stderr.decode("utf-8", "replace").strip())
      how = f"signal {-code}" if code < 0 else f"exit status {code}"
      return failed(
        f"{how}; standard error ends with {text[-_LONGEST_EXCERPT:]!r}",
        again=code in self._config.retry_exit_codes,
      )
    try:
      text = stdout.decode()
    except UnicodeDecodeError:
      return failed(f"standard output, {len(stdout)} bytes, is not UTF-8")
    read = "exit status 0, standard output"
    if self._path:
      return self._by_path(text, read)
    if (told := told_errors.of_text(text)) is not None:
      raise told
    if self._regex:
      # Left behind at the deadline, a search ends by itself.
      found = await threads.call(_last, self._regex, text, self._timeout_s)
      if found is None:
        return failed(
          f"{read} has no match of output_regex={self._config.output_regex!r}"
          f" in {len(text)} characters"
        )
      group = 1 if self._regex.groups else 0
      attempt = answered(found[group], f"{read}, last match of output_regex")
      return dataclasses.replace(attempt, said=text)
    return answered(text, read)

  def _by_path(self, text: str, read: str) -> Attempt:
    where = f"{read}, JSON, answer at {self._config.output_path}"
    try:
      value = json.loads(text)
    except (ValueError, RecursionError):
      if (told := told_errors.of_text(text)) is not None:
        raise told from None
      return failed(f"{where}: {len(text)} characters that are not valid JSON")
    check_failure(value, self._failure, read)
    return answered(answer_at(value, self._path, read, where), where)

  async def aclose(self) -> None:
    await self._groups.aclose()


def _size(file: IO) -> int:
  return os.fstat(file.fileno()).st_size


def _last(pattern, text: str, timeout_s: float):
  """The last match, searched without the interpreter's lock."""
  found = collections.deque(pattern.finditer(text, timeout=timeout_s), 1)
  return found[0] if found else None
