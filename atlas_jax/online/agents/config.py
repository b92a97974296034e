"""What an agent is and how it is asked: one dataclass a kind.

A config file holds all kinds and names one; the others are not read.
"""

import os.path
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field

import regex

from atlas_jax import addresses, secret_names
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
  "the OpenAI Assistants API ended on 2026-08-26. Use {where}.kind='responses':"
  " the assistant's model is {where}.responses.model, its instructions are"
  " {where}.responses.instructions (or {where}.responses.extra.prompt with the"
  " id of a stored prompt), its tools {where}.responses.extra.tools"
)


@dataclass(frozen=True)
class HttpAgentConfig:
  """An agent behind an HTTP endpoint.

  url, headers, query and body may hold ${VARIABLE} of the environment; a
  prompt that holds one is sent as it is. In query and body, wherever it
  stands, {prompt} is the prompt. Paths read the JSON reply:
  choices[0].message.content, data.items.0.text, ["a.b"] for odd keys.
  """

  url: str | None = None
  method: str = "POST"
  headers: dict = field(default_factory=dict)
  query: dict = field(default_factory=dict)
  body: dict = field(default_factory=dict)  # empty: no body
  answer: str | None = None  # path; None: the whole reply is the answer
  failure_path: str | None = None  # path; what stands there is a failure
  finish_reason: str | None = None  # path
  prompt_tokens: str | None = None  # path
  completion_tokens: str | None = None  # path
  total_tokens: str | None = None  # path; it may hold hidden thinking


@dataclass(frozen=True)
class PythonAgentConfig:
  """A function of one str that returns a str, sync or async."""

  target: str | None = None  # module:function or path/to/file.py:function
  # In a process that can be killed at the deadline; its crash is an error.
  own_process: bool = False


@dataclass(frozen=True)
class CliAgentConfig:
  """A command that is run once a prompt, never by a shell."""

  argv: tuple[str, ...] = ()
  # stdin; file: {prompt_file} in argv is the path of a temporary file;
  # argument: {prompt} stands in one element of argv.
  prompt_by: str = "stdin"
  env: tuple[str, ...] = ()  # variables that the command gets, beside PATH, ...
  output_regex: str | None = None  # the last match (its group 1) is the answer
  output_path: str | None = None  # stdout is JSON, the answer is at this path
  failure_path: str | None = None  # beside it; what stands there is a failure
  # Failures that pass by; 75 is EX_TEMPFAIL of sysexits.h.
  retry_exit_codes: tuple[int, ...] = (75,)


@dataclass(frozen=True)
class ResponsesAgentConfig:
  """The OpenAI Responses API, or a server that speaks it."""

  model: str | None = None  # None: extra.prompt names a stored prompt
  base_url: str | None = None  # None: OpenAI's
  api_key_env: str | None = "OPENAI_API_KEY"  # None: the server wants no key
  instructions: str | None = None
  max_output_tokens: int | None = None
  temperature: float | None = None
  # tools, reasoning, prompt, extra_headers, ...; its strings may hold
  # ${VARIABLE} of the environment.
  extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class AgentsSdkConfig:
  """An Agent of the OpenAI Agents SDK, with its tools and handoffs."""

  # module:attribute or path/to/file.py:attribute; an Agent, or a function
  # without arguments that makes one.
  target: str | None = None
  max_turns: int = 10
  # For agents that name their model: where it is. Both None: as the SDK does.
  base_url: str | None = None
  api_key_env: str | None = None
  api: str = "responses"  # responses | chat_completions


@dataclass(frozen=True)
class AgentConfig:
  """An agent: its kind, and how patiently it is asked."""

  kind: str | None = None  # one of _RULES; None: there is no agent
  timeout_s: float = 120.0  # of one attempt
  retries: int = 2  # after failures that pass by
  concurrency: int = 8  # prompts under way at one time
  # Of a reply, of a command's output; more is an error, and is not read.
  max_response_bytes: int = MOST_BYTES
  # Found in what the agent says, it is a failure and no answer.
  failure_regex: str | None = None
  http: HttpAgentConfig = HttpAgentConfig()
  python: PythonAgentConfig = PythonAgentConfig()
  cli: CliAgentConfig = CliAgentConfig()
  responses: ResponsesAgentConfig = ResponsesAgentConfig()
  agents_sdk: AgentsSdkConfig = AgentsSdkConfig()


def problems(config: AgentConfig, where: str) -> Iterator[str]:
  """One line for each value that is not valid: the key and what is.

  Args:
    config: an agent of a kind (not None).
    where: how its keys begin, such as 'config.agent'.
  """
  if config.kind == "openai_assistant":
    yield f"{where}.kind='openai_assistant': {_ASSISTANT.format(where=where)}"
    return
  if config.kind not in _RULES:
    yield f"{where}.kind={config.kind!r} is not one of {', '.join(_RULES)}"
    return
  if config.timeout_s <= 0:
    yield f"{where}.timeout_s={config.timeout_s} must be above 0"
  if config.retries < 0:
    yield f"{where}.retries={config.retries} must not be negative"
  for key in ("concurrency", "max_response_bytes"):
    if getattr(config, key) < 1:
      yield f"{where}.{key}={getattr(config, key)} must be at least 1"
  yield from _regex(config.failure_regex, f"{where}.failure_regex")
  rules = _RULES[config.kind]
  yield from rules(getattr(config, config.kind), f"{where}.{config.kind}")


def _http(http: HttpAgentConfig, where: str) -> Iterator[str]:
  url = http.url or ""
  try:
    parts = urllib.parse.urlsplit(url)
  except ValueError:
    parts = None
  if parts is None or not url.startswith(("http://", "https://", "${")):
    yield f"{where}.url={http.url!r} must be an http:// or https:// address"
  elif "@" in parts.netloc:
    yield (
      f"{where}.url holds a user or password; put it into"
      f" {where}.headers.Authorization as ${{VARIABLE}}"
    )
  elif secret_names.in_text(url):
    yield f"{where}.url {_SECRET}"
  if not http.method.isalpha() or not http.method.isupper():
    yield f"{where}.method={http.method!r} must be such as GET or POST"
  for name, value in http.headers.items():
    if not isinstance(value, str):
      yield f"{where}.headers[{name!r}] must be text"
    elif not value.isprintable() or not _HEADER_NAME.fullmatch(name):
      yield f"{where}.headers[{name!r}] is no header of one line"
  yield from _secrets(http.headers, f"{where}.headers")
  for name, value in http.query.items():
    if not isinstance(value, str):
      yield f"{where}.query[{name!r}] must be text"
  yield from _secrets(http.query, f"{where}.query")
  yield from _secrets(http.body, f"{where}.body")
  if not holds(http.body, PROMPT) and not holds(http.query, PROMPT):
    yield f"neither {where}.body nor {where}.query holds {PROMPT}"


def _secrets(template, where: str) -> Iterator[str]:
  """A line for each text, at any depth, that is a secret by its name."""
  for path, name, value in secret_names.named(template):
    if not isinstance(value, str):
      value = ""
    template = "${" in value or PROMPT in value
    by_name = value and secret_names.is_secret(name) and not template
    if by_name or secret_names.in_text(value):
      yield f"{where}{path} {_SECRET}"


def _python(python: PythonAgentConfig, where: str) -> Iterator[str]:
  yield from _target(python.target, where)


def _cli(cli: CliAgentConfig, where: str) -> Iterator[str]:
  if not cli.argv or not cli.argv[0]:
    yield f"{where}.argv must name a command, as ('command', 'argument', ...)"
  elif holds(cli.argv[0], PROMPT) or holds(cli.argv[0], PROMPT_FILE):
    yield f"{where}.argv[0] is the command and must not hold the prompt"
  elif holds(_command_of_shell(cli.argv), PROMPT):
    yield (
      f"{where}.argv gives {PROMPT} to a shell as a command: it would be run."
      " Use prompt_by 'stdin', or name the program without a shell"
    )
  for i in secret_names.in_argv(cli.argv):
    yield (
      f"{where}.argv[{i}] looks like a secret, and a config is written to"
      " files: have the command read it from a variable, and name that in"
      f" {where}.env"
    )
  if not all(map(secret_names.may_name, cli.env)):
    yield f"{where}.env {secret_names.NO_NAME}"
  if cli.prompt_by not in ("stdin", "file", "argument"):
    yield (
      f"{where}.prompt_by={cli.prompt_by!r} is not one of stdin, file, argument"
    )
  for marker, by in ((PROMPT, "argument"), (PROMPT_FILE, "file")):
    count = sum(element.count(marker) for element in cli.argv)
    if count != (cli.prompt_by == by):
      yield (
        f"{where}.argv holds {marker} {count} times with {where}.prompt_by="
        f"{cli.prompt_by!r}; it must stand there once with {by!r} and"
        " otherwise not at all"
      )
  if cli.output_regex is not None and cli.output_path is not None:
    yield f"{where}.output_regex and {where}.output_path exclude each other"
  if cli.failure_path is not None and cli.output_path is None:
    yield f"{where}.failure_path needs {where}.output_path: both read JSON"
  yield from _regex(cli.output_regex, f"{where}.output_regex")


def _regex(pattern: str | None, where: str) -> Iterator[str]:
  try:
    regex.compile(pattern or "")
  except regex.error as error:
    yield f"{where}={pattern!r}: {error}"


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


def _responses(responses: ResponsesAgentConfig, where: str) -> Iterator[str]:
  if responses.model is None and "prompt" not in responses.extra:
    yield f"{where}.model is missing (or name a stored prompt in extra.prompt)"
  for key in ("input", "stream", "background", "model", "instructions"):
    if key in responses.extra:
      yield f"{where}.extra must not hold {key!r}"
  yield from _secrets(responses.extra, f"{where}.extra")
  yield from _server(responses, where)


def _agents_sdk(sdk: AgentsSdkConfig, where: str) -> Iterator[str]:
  yield from _target(sdk.target, where)
  if sdk.max_turns < 1:
    yield f"{where}.max_turns={sdk.max_turns} must be at least 1"
  if sdk.api not in ("responses", "chat_completions"):
    yield f"{where}.api={sdk.api!r} is not one of responses, chat_completions"
  yield from _server(sdk, where)


def _server(config, where: str) -> Iterator[str]:
  url = config.base_url
  problem = None if url is None else addresses.problem(url)
  if problem is not None:
    yield f"{where}.base_url {problem}; a key goes by {where}.api_key_env"
  if not secret_names.may_name(config.api_key_env or "NONE"):
    yield f"{where}.api_key_env {secret_names.NO_NAME}"


def _target(target: str | None, where: str) -> Iterator[str]:
  head, _, name = (target or "").rpartition(":")
  if not head or not name.isidentifier():
    yield (
      f"{where}.target={target!r} must be module:name or path/to/file.py:name"
    )


def holds(template, marker: str) -> bool:
  """Whether `marker` stands in any string value of a JSON template."""
  if isinstance(template, str):
    return marker in template
  if isinstance(template, dict):
    return any(holds(value, marker) for value in template.values())
  if isinstance(template, list | tuple):
    return any(holds(value, marker) for value in template)
  return False


# kind -> what its values must be
_RULES = {
  "http": _http,
  "python": _python,
  "cli": _cli,
  "responses": _responses,
  "agents_sdk": _agents_sdk,
}
