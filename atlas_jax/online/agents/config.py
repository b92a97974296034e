"""What an agent is and how it is asked: one dataclass a kind.

A config file holds all kinds and names one; the others are not read.
"""

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
from atlas_jax.online.agents.json_replies import steps_of
from atlas_jax.online.calls.variables import VariableName
from atlas_jax.serving.http import MOST_BYTES

PROMPT = "{prompt}"
PROMPT_FILE = "{prompt_file}"
KINDS = ("http", "python", "cli", "responses", "agents_sdk")
_SECRET = (
  "looks like a secret, and a config is written to files: write ${VARIABLE} and"
  " set it in the environment"
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r".+:[^\W\d]\w*")
# What would make a response part of a conversation that others are part of.
_SHARED = ("conversation", "previous_response_id", "container", "container_id")


def _is_kind(name: str) -> bool:
  if name == "openai_assistant":
    raise ValueError(
      "the OpenAI Assistants API ended on 2026-08-26. Use kind='responses'"
      " with the model, instructions (or extra.prompt, the id of a stored"
      " prompt) and extra.tools of the assistant"
    )
  return name in KINDS


def _is_address(url: str) -> bool:
  anonymous = "@" not in urllib.parse.urlsplit(url).netloc
  return anonymous and url.startswith(("http://", "https://", "${"))


Kind = Annotated[str, Valid(f"is not one of {', '.join(KINDS)}", _is_kind)]
Regex = Annotated[str, Valid("must be a regular expression", regex.compile)]
Method = Annotated[
  str,
  Valid("must be such as GET or POST", lambda m: m.isalpha() and m.isupper()),
]
_AN_ADDRESS = "must be an http:// or https:// address without user and password"
Url = Annotated[str, Valid(_AN_ADDRESS, _is_address, shown=False)]
_A_PATH = "must be a path such as choices[0].message.content"
Path = Annotated[str, Valid(_A_PATH, steps_of)]
_A_TARGET = "must be module:name or path/to/file.py:name"
Target = Annotated[str, Valid(_A_TARGET, _TARGET.fullmatch)]


def _secrets(template, where: str) -> Iterator[str]:
  """A line for each text, at any depth, that is a secret by its name."""
  for path, name, value in secret_names.named(template):
    if not isinstance(value, str):
      value = ""
    filled = "${" in value or PROMPT in value
    by_name = value and secret_names.is_secret(name) and not filled
    if by_name or secret_names.in_text(value):
      yield f"{where}{path} {_SECRET}"


def _address(config) -> Iterator[str]:
  url = config.base_url
  if url is not None and (problem := addresses.problem(url)):
    yield f"base_url {problem}; a key goes by api_key_env"


@dataclass(frozen=True)
class HttpAgentConfig:
  """An agent behind an HTTP endpoint.

  url, headers, query and body may hold ${VARIABLE} of the environment; a
  prompt that holds one is sent as it is. In query and body, wherever it
  stands, {prompt} is the prompt. Paths read the JSON reply:
  choices[0].message.content, data.items.0.text, ["a.b"] for odd keys.
  """

  url: Url | None = None
  method: Method = "POST"
  headers: dict = field(default_factory=dict)
  query: dict = field(default_factory=dict)
  body: dict = field(default_factory=dict)  # empty: no body
  answer: Path | None = None  # path; None: the whole reply is the answer
  failure_path: Path | None = None  # path; what stands there is a failure
  finish_reason: Path | None = None  # path
  prompt_tokens: Path | None = None  # path
  completion_tokens: Path | None = None  # path
  total_tokens: Path | None = None  # path; it may hold hidden thinking

  def conflicts(self) -> Iterator[str]:
    if self.url is None:
      yield f"url=None {_AN_ADDRESS}"
    elif secret_names.in_text(self.url):
      yield f"url {_SECRET}"
    for name, value in self.headers.items():
      one_line = isinstance(value, str) and value.isprintable()
      if not one_line or not _HEADER_NAME.fullmatch(name):
        yield f"headers[{name!r}] is no header of one line"
    for name, value in self.query.items():
      if not isinstance(value, str):
        yield f"query[{name!r}] must be text"
    sent = {"headers": self.headers, "query": self.query, "body": self.body}
    for key, template in sent.items():
      yield from _secrets(template, key)
    for key in ("url", "method", "headers"):
      if PROMPT in str(getattr(self, key)):
        yield f"{key} must not hold {PROMPT}"
    texts = secret_names.named({"query": self.query, "body": self.body})
    if not any(PROMPT in text for *_, text in texts if isinstance(text, str)):
      yield f"body or query must hold {PROMPT}"


@dataclass(frozen=True)
class PythonAgentConfig:
  """A function of one str that returns a str, sync or async."""

  # module:function or path/to/file.py:function
  target: Target | None = None
  # A process for each prompt, which loads the function, shares nothing with
  # others and can be killed at the deadline; its crash is an error.
  own_process: bool = False

  def conflicts(self) -> Iterator[str]:
    if self.target is None:
      yield f"target=None {_A_TARGET}"


@dataclass(frozen=True)
class CliAgentConfig:
  """A command that is run once a prompt, never by a shell."""

  argv: tuple[str, ...] = ()
  # stdin; file: {prompt_file} in argv is the path of a temporary file;
  # argument: {prompt} stands in one element of argv.
  prompt_by: Literal["stdin", "file", "argument"] = "stdin"
  # Variables that the command gets, beside PATH, ...
  env: tuple[VariableName, ...] = ()
  # Where it runs, and what it writes is seen by all prompts. None: an empty
  # directory for each prompt; paths of files in argv are then made absolute.
  directory: str | None = None
  # The last match (its group 1) is the answer.
  output_regex: Regex | None = None
  output_path: Path | None = None  # the answer's, where stdout holds JSON
  failure_path: Path | None = None  # beside it; what stands there is a failure

  def conflicts(self) -> Iterator[str]:
    argv = self.argv
    if not argv or not argv[0]:
      yield "argv must name a command, as ('command', 'argument', ...)"
    elif PROMPT in argv[0] or PROMPT_FILE in argv[0]:
      yield "argv[0] is the command and must not hold the prompt"
    elif PROMPT in secret_names.command_of_shell(argv):
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
  base_url: str | None = None  # None: OPENAI_BASE_URL's, or OpenAI's
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
    for path, name, value in secret_names.named(self.extra):
      if name in _SHARED and (not isinstance(value, dict) or "id" in value):
        yield f"extra{path} would be shared by all prompts"
    yield from _secrets(self.extra, "extra")
    yield from _address(self)


@dataclass(frozen=True)
class AgentsSdkConfig:
  """An Agent of the OpenAI Agents SDK, with its tools and handoffs."""

  # module:attribute or path/to/file.py:attribute; an Agent, or a function
  # without arguments, maybe async, that makes one for each prompt.
  target: Target | None = None
  max_turns: PositiveInt = 10
  # For agents that name their model: where it is. Both None: as the SDK does.
  base_url: str | None = None
  api_key_env: VariableName | None = None
  api: Literal["responses", "chat_completions"] = "responses"

  def conflicts(self) -> Iterator[str]:
    if self.target is None:
      yield f"target=None {_A_TARGET}"
    yield from _address(self)


@dataclass(frozen=True)
class AgentConfig:
  """An agent: its kind, and how patiently it is asked."""

  kind: Kind | None = None  # None: there is no agent
  timeout_s: PositiveFloat = 120.0  # of one attempt
  retries: NonNegativeInt = 2  # after failures that pass by
  concurrency: PositiveInt = 8  # prompts under way at one time
  # Of a reply, of a command's output; more is an error, and is not read.
  max_response_bytes: PositiveInt = MOST_BYTES
  # Found in what the agent says, it is a failure and no answer.
  failure_regex: Regex | None = None
  http: HttpAgentConfig = HttpAgentConfig()
  python: PythonAgentConfig = PythonAgentConfig()
  cli: CliAgentConfig = CliAgentConfig()
  responses: ResponsesAgentConfig = ResponsesAgentConfig()
  agents_sdk: AgentsSdkConfig = AgentsSdkConfig()

  @property
  def unread(self) -> tuple[str, ...]:
    return tuple(kind for kind in KINDS if kind != self.kind)
