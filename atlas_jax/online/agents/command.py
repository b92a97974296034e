"""Agents that are commands: an argv list, never a shell, run once a prompt.

A command gets the prompt by standard input, by a file, or as one argument. It
runs in a process group of its own, which is killed whole when it ends, is
late, is given up, or the run is killed; what leaves the group stays behind.
Unless its config says where it runs, it has a directory of its own each time.
An exit status of 75, EX_TEMPFAIL, is a failure that may pass by.
"""

import asyncio
import errno
import os
import pathlib
import re
import sys
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import regex

from atlas_jax.config import ConfigError
from atlas_jax.online.agents import supervisor
from atlas_jax.online.agents.config import (
  PROMPT,
  PROMPT_FILE,
  AgentConfig,
  CliAgentConfig,
)
from atlas_jax.online.agents.json_replies import answer_in
from atlas_jax.online.calls import told_errors
from atlas_jax.online.calls.calls import Answer, CallFailed, Request, Transport
from atlas_jax.online.calls.cleaning import cleaned, decoded
from atlas_jax.online.calls.functions import last_match
from atlas_jax.online.calls.variables import Credentials
from atlas_jax.scrubbing import scrubber
from atlas_jax.serving.http import TooLarge

# What a command gets of the environment without being asked for.
_ALWAYS = ("PATH", "HOME", "LANG", "LC_ALL")
_LONGEST_EXCERPT = 300  # characters of an error
# Read of it: far more, so that no key is cut before it is hidden.
_LONGEST_END = 1 << 16  # bytes
_LOOK_S = 0.05  # between two looks at the size of the output
_REAP_S = 5.0  # for a group that was killed


@dataclass
class CommandAgent(Transport):
  """One command.

  target: what is run, for a person. argv has a marker for the prompt where
  prompt_by says so. env holds all that the command gets, beside TMPDIR;
  directory None: it runs in a new one each time. read makes an answer of a
  status, below 0 a signal, and of what was written.
  """

  target: str
  argv: tuple[str, ...]
  prompt_by: str
  env: Mapping[str, str]
  directory: str | None
  most_bytes: int
  read: Callable[[int, bytes, bytes], Awaitable[Answer]]

  async def send(self, request: Request) -> Answer:
    with tempfile.TemporaryDirectory(
      prefix="prompt-", ignore_cleanup_errors=True
    ) as name:
      place = pathlib.Path(name)
      (place / "tmp").mkdir()
      (place / "work").mkdir()
      (place / "prompt").write_bytes(request.prompt.encode())
      argv = self._filled(request.prompt, str(place / "prompt"))
      return await self.read(*await self._run(argv, place))

  def _filled(self, prompt: str, file: str) -> list[str]:
    if self.prompt_by == "stdin":
      return list(self.argv)
    by_file = self.prompt_by == "file"
    filled = (PROMPT_FILE, file) if by_file else (PROMPT, prompt)
    return [element.replace(*filled) for element in self.argv]

  async def _run(
    self, argv: list[str], place: pathlib.Path
  ) -> tuple[int, bytes, bytes]:
    """(status, standard output, the end of standard error)."""
    how_it_ended = place / "ended"
    # Files, not pipes: whoever keeps them open, nobody waits for them.
    with (
      open(place / "prompt", "rb") as prompt,
      open(place / "stdout", "w+b") as stdout,
      open(place / "stderr", "w+b") as stderr,
    ):

      def too_large() -> bool:
        sizes = (os.fstat(file.fileno()).st_size for file in (stdout, stderr))
        return max(sizes) > self.most_bytes

      try:
        process = await asyncio.create_subprocess_exec(
          *(sys.executable, "-I", "-S", supervisor.__file__),
          *(str(os.getpid()), str(how_it_ended)),
          *(self.env.get("LC_CTYPE", ""), *argv),
          stdin=prompt if self.prompt_by == "stdin" else DEVNULL,
          stdout=stdout,
          stderr=stderr,
          env={**self.env, "TMPDIR": str(place / "tmp")},
          cwd=self.directory or place / "work",
          # Ctrl-C, or the end of our group, is not its end.
          start_new_session=True,
        )
      except (OSError, ValueError) as error:
        why, number = str(error), getattr(error, "errno", None)
        if number in (None, errno.E2BIG):  # None: an argument holds a NUL
          why += "; prompt_by='stdin' or 'file' takes every prompt"
        raise CallFailed(why, again=False) from None
      ended = asyncio.ensure_future(process.wait())
      try:
        while not ended.done() and not too_large():
          await asyncio.wait([ended], timeout=_LOOK_S)
      finally:
        if not ended.done():
          process.terminate()
          await asyncio.wait([ended], timeout=_REAP_S)
      if too_large():
        raise CallFailed(str(TooLarge(self.most_bytes)), again=False)
      if not how_it_ended.exists():
        raise CallFailed("it removed its directory or supervisor", again=False)
      code = how_it_ended.read_text()
      if not re.fullmatch(r"-?\d+", code):
        raise CallFailed(code, again=False)
      stdout.seek(0)
      stderr.seek(max(0, os.fstat(stderr.fileno()).st_size - _LONGEST_END))
      return int(code), stdout.read(), stderr.read()


def open_cli(
  config: AgentConfig, where: str, credentials: Credentials
) -> CommandAgent:
  """The command that `config.cli` names.

  Raises:
    ConfigError: a variable is missing, or the directory.
  """
  keys, environ = config.cli, credentials.environ
  env = {name: environ[name] for name in _ALWAYS if name in environ}
  env |= {n: credentials.variable(n, f"{where}.env") for n in keys.env}
  directory = keys.directory and os.path.abspath(keys.directory)
  if directory and not os.path.isdir(directory):
    raise ConfigError(f"{where}.directory={keys.directory!r} is no directory")
  return CommandAgent(
    target=keys.argv[0],
    argv=tuple(map(_absolute, keys.argv)),
    prompt_by=keys.prompt_by,
    env=env,
    directory=directory,
    most_bytes=config.max_response_bytes,
    read=_reader(keys, config.timeout_s, credentials),
  )


def _absolute(element: str) -> str:
  """The path of a file or directory, wherever the command runs."""
  is_path = ("/" in element or "." in element) and os.path.exists(element)
  return os.path.abspath(element) if is_path else element


def how_it_ended(status: int) -> str:
  return f"signal {-status}" if status < 0 else f"exit status {status}"


def _reader(keys: CliAgentConfig, timeout_s: float, credentials: Credentials):
  """What reads an answer as `keys` says; see CommandAgent."""
  hide = scrubber(credentials.environ, *credentials.values)

  async def read(status: int, stdout: bytes, stderr: bytes) -> Answer:
    how = how_it_ended(status)
    if status != 0:
      # Cut at its beginning, so without its keys: an error is cut at its end.
      text = hide(cleaned(stderr.decode(errors="replace")).strip())
      end = f"standard error ends with {text[-_LONGEST_EXCERPT:]!r}"
      raise CallFailed(f"{how}; {end}", again=status == os.EX_TEMPFAIL)
    text, how = decoded(stdout, "standard output"), f"{how}, standard output"
    if keys.output_path is not None:
      where = {"answer": keys.output_path, "failure_path": keys.failure_path}
      return answer_in(text, where, how, f"{len(text)} characters")
    if keys.output_regex is None:
      return Answer(text, None, read=how, final=True)
    if (told := told_errors.of_text(text)) is not None:
      raise told
    pattern = regex.compile(keys.output_regex)
    found = await last_match(pattern, text, timeout_s)
    if found is None:
      match = f"match of output_regex={keys.output_regex!r}"
      missing = f"{how} has no {match} in {len(text)} characters"
      raise CallFailed(missing, again=False)
    answer = found[1 if pattern.groups else 0]
    how += ", last match of output_regex"
    return Answer(answer, None, said=text, read=how, final=True)

  return read
