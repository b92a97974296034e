"""What an agent is and how it is asked: one dataclass a kind.

A config file holds all kinds and names one; the others are not read.
"""

import os.path
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import regex

from atlas_jax import addresses, secret_names
from atlas_jax.config_tree import (
  NonNegativeInt,
  PositiveFloat,
  PositiveInt,
  Valid,
)
from atlas_jax.online.calls.variables import VariableName
from atlas_jax.serving.http import MOST_BYTES

PROMPT = "{prompt}"
PROMPT_FILE = "{prompt_file}"
_SECRET = (
  "looks like a secret, and a config is written to files: write ${VARIABLE} and"
  " set it in the environment"
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SHELLS = ("sh", "bash", "dash", "ash", "zsh", "ksh", "fish")
_SHELL_COMMAND = re.compile(r"-[a-zA-Z]*c[a-zA-Z]*")
_ASSISTANT = (
  "the OpenAI Assistants API ended on 2026-08-26. Use kind='responses' with the"
  " model, instructions (or extra.prompt, the id of a stored prompt) and"
  " extra.tools of the assistant"
)
KINDS = ("http", "python", "cli", "responses", "agents_sdk")


def _is_kind(name: str) -> bool:
  if name == "openai_assistant":
    raise ValueError(_ASSISTANT)
  return name in KINDS


_KIND = Valid(f"is not one of {', '.join(KINDS)}", _is_kind)
_REGEX = Valid("must be a regular expression", regex.compile)
_METHOD = Valid(
  "must be such as GET or POST", lambda name: name.isalpha() and name.isupper()
)


def _is_target(text: str) -> bool:
  head, _, name = text.rpartition(":")
  return bool(head) and name.isidentifier()


_TARGET = Valid("must be module:name or path/to/file.py:name", _is_target)


def _secrets(template, where: str) -> Iterator[str]:
  """A line for each text, at any depth, that is a secret by its name."""
  for path, name, value in secret_names.named(template):
    if not isinstance(value, str):
      value = ""
    template = "${" in value or PROMPT in value
    by_name = value and secret_names.is_secret(name) and not template
    if by_name or secret_names.in_text(value):
      yield f"{where}{path} {_SECRET}"


def _address(config) -> Iterator[str]:
  url = config.base_url
  if url is not None and (problem := addresses.problem(url)):
    yield f"base_url {problem}; a key goes by api_key_env"


def _command_of_shell(argv: tuple[str, ...]) -> str | None:
  """The command that argv has a shell run by -c; None: there is none."""
  names = [os.path.basename(element) for element in argv]
  shell = next((i for i, name in enumerate(names) if name in _SHELLS), None)
  rest = argv[len(argv) if shell is None else shell + 1 :]
  for i, element in enumerate(rest):
    if _SHELL_COMMAND.fullmatch(element):
      after = (e for e in rest[i + 1 :] if not e.startswith(("-", "+")))
      return next(after, None)
  return None


def holds(template, marker: str) -> bool:
  """Whether `marker` stands in any string value of a JSON template."""
  if isinstance(template, str):
    return marker in template
  if isinstance(template, dict):
    return any(holds(value, marker) for value in template.values())
  if isinstance(template, list | tuple):
    return any(holds(value, marker) for value in template)
  return False


@dataclass(frozen=True)
class HttpAgentConfig:
  """An agent behind an HTTP endpoint.

  url, headers, query and body may hold ${VARIABLE} of the environment; a
  prompt that holds one is sent as it is. In query and body, wherever it
  stands, {prompt} is the prompt. Paths read the JSON reply:
  choices[0].message.content, data.items.0.text, ["a.b"] for odd keys.
  """

  url: str | None = None
  method: Annotated[str, _METHOD] = "POST"
  headers: dict = field(default_factory=dict)
  query: dict = field(default_factory=dict)
  body: dict = field(default_factory=dict)  # empty: no body
  answer: str | None = None  # path; None: the whole reply is the answer
  failure_path: str | None = None  # path; what stands there is a failure
  finish_reason: str | None = None  # path
  prompt_tokens: str | None = None  # path
  completion_tokens: str | None = None  # path
  total_tokens: str | None = None  # path; it may hold hidden thinking

  def conflicts(self) -> Iterator[str]:
    url = self.url or ""
    try:
      parts = urllib.parse.urlsplit(url)
    except ValueError:
      parts = None
    if parts is None or not url.startswith(("http://", "https://", "${")):
      yield f"url={self.url!r} must be an http:// or https:// address"
    elif "@" in parts.netloc:
      yield (
        "url holds a user or password; put it into headers.Authorization as"
        " ${VARIABLE}"
      )
    elif secret_names.in_text(url):
      yield f"url {_SECRET}"
    for key in ("headers", "query"):
      for name, value in getattr(self, key).items():
        if not isinstance(value, str):
          yield f"{key}[{name!r}] must be text"
    for name, value in self.headers.items():
      if not str(value).isprintable() or not _HEADER_NAME.fullmatch(name):
        yield f"headers[{name!r}] is no header of one line"
    for key in ("headers", "query", "body"):
      yield from _secrets(getattr(self, key), key)
    if not holds(self.body, PROMPT) and not holds(self.query, PROMPT):
      yield f"body or query must hold {PROMPT}"


@dataclass(frozen=True)
class PythonAgentConfig:
  """A function of one str that returns a str, sync or async."""

  # module:function or path/to/file.py:function
  target: Annotated[str, _TARGET] | None = None
  # In a process that can be killed at the deadline; its crash is an error.
  own_process: bool = False

  def conflicts(self) -> Iterator[str]:
    if self.target is None:
      yield f"target=None {_TARGET.words}"


@dataclass(frozen=True)
class CliAgentConfig:
  """A command that is run once a prompt, never by a shell."""

  argv: tuple[str, ...] = ()
  # stdin; file: {prompt_file} in argv is the path of a temporary file;
  # argument: {prompt} stands in one element of argv.
  prompt_by: Literal["stdin", "file", "argument"] = "stdin"
  # Variables that the command gets, beside PATH, ...
  env: tuple[VariableName, ...] = ()
  # The last match (its group 1) is the answer.
  output_regex: Annotated[str, _REGEX] | None = None
  output_path: str | None = None  # stdout is JSON, the answer is at this path
  failure_path: str | None = None  # beside it; what stands there is a failure
  # Failures that pass by; 75 is EX_TEMPFAIL of sysexits.h.
  retry_exit_codes: tuple[int, ...] = (75,)

  def conflicts(self) -> Iterator[str]:
    argv = self.argv
    if not argv or not argv[0]:
      yield "argv must name a command, as ('command', 'argument', ...)"
    elif holds(argv[0], PROMPT) or holds(argv[0], PROMPT_FILE):
      yield "argv[0] is the command and must not hold the prompt"
    elif holds(_command_of_shell(argv), PROMPT):
      yield (
        f"argv gives {PROMPT} to a shell as a command: it would be run. Use"
        " prompt_by 'stdin', or name the program without a shell"
      )
    for i in secret_names.in_argv(argv):
      yield (
        f"argv[{i}] looks like a secret, and a config is written to files: have"
        " the command read it from a variable, and name that in env"
      )
    for marker, by in ((PROMPT, "argument"), (PROMPT_FILE, "file")):
      count = sum(element.count(marker) for element in argv)
      if count != (self.prompt_by == by):
        yield (
          f"argv holds {marker} {count} times with prompt_by="
          f"{self.prompt_by!r}; it must stand there once with {by!r} and"
          " otherwise not at all"
        )
    if self.output_regex is not None and self.output_path is not None:
      yield "output_regex and output_path exclude each other"
    if self.failure_path is not None and self.output_path is None:
      yield "failure_path needs output_path: both read JSON"


@dataclass(frozen=True)
class ResponsesAgentConfig:
  """The OpenAI Responses API, or a server that speaks it."""

  model: str | None = None  # None: extra.prompt names a stored prompt
  base_url: str | None = None  # None: OpenAI's
  # None: the server wants no key.
  api_key_env: VariableName | None = "OPENAI_API_KEY"
  instructions: str | None = None
  max_output_tokens: int | None = None
  temperature: float | None = None
  # tools, reasoning, prompt, extra_headers, ...; its strings may hold
  # ${VARIABLE} of the environment.
  extra: dict = field(default_factory=dict)

  def conflicts(self) -> Iterator[str]:
    if self.model is None and "prompt" not in self.extra:
      yield "model is missing (or name a stored prompt in extra.prompt)"
    for key in ("input", "stream", "background", "model", "instructions"):
      if key in self.extra:
        yield f"extra must not hold {key!r}"
    yield from _secrets(self.extra, "extra")
    yield from _address(self)


@dataclass(frozen=True)
class AgentsSdkConfig:
  """An Agent of the OpenAI Agents SDK, with its tools and handoffs."""

  # module:attribute or path/to/file.py:attribute; an Agent, or a function
  # without arguments that makes one.
  target: Annotated[str, _TARGET] | None = None
  max_turns: PositiveInt = 10
  # For agents that name their model: where it is. Both None: as the SDK does.
  base_url: str | None = None
  api_key_env: VariableName | None = None
  api: Literal["responses", "chat_completions"] = "responses"

  def conflicts(self) -> Iterator[str]:
    if self.target is None:
      yield f"target=None {_TARGET.words}"
    yield from _address(self)


@dataclass(frozen=True)
class AgentConfig:
  """An agent: its kind, and how patiently it is asked."""

  kind: Annotated[str, _KIND] | None = None  # None: there is no agent
  timeout_s: PositiveFloat = 120.0  # of one attempt
  retries: NonNegativeInt = 2  # after failures that pass by
  concurrency: PositiveInt = 8  # prompts under way at one time
  # Of a reply, of a command's output; more is an error, and is not read.
  max_response_bytes: PositiveInt = MOST_BYTES
  # Found in what the agent says, it is a failure and no answer.
  failure_regex: Annotated[str, _REGEX] | None = None
  http: HttpAgentConfig = HttpAgentConfig()
  python: PythonAgentConfig = PythonAgentConfig()
  cli: CliAgentConfig = CliAgentConfig()
  responses: ResponsesAgentConfig = ResponsesAgentConfig()
  agents_sdk: AgentsSdkConfig = AgentsSdkConfig()

  @property
  def unread(self) -> tuple[str, ...]:
    return tuple(kind for kind in KINDS if kind != self.kind)
