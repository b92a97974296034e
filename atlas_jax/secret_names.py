"""Finds keys and passwords in a config, by their names and shapes.

Configs are written to files and logs, so no key may stand in one.
"""

import os
import re
import shlex
import urllib.parse
from collections.abc import Iterator

_SECRET = re.compile(
  r"secret|password|passwd|passphrase|credential|authori[sz]ation"
  r"|authentication|cookie"
  r"|(api|access|auth|private|refresh|session|subscription)[-_. ]?"
  r"(key|token(?!s))"
  r"|token$|(^|[-_. ])(key|auth|pwd|pass|pat|bearer|jwt)$",
  re.IGNORECASE,
)
# Sampling parameters, keys of tables, and names of where a secret is.
_OPEN = re.compile(
  r"(^|[-_. ])((bos|eos|pad|stop)[-_. ]token"
  r"|(cache|sort|primary|foreign|partition)[-_. ]key"
  r"|file|path|env|name|url|stdin)$",
  re.IGNORECASE,
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Before a key in a header.
SCHEME = r"(?:(?i:Basic|Bearer|Token)\s+)?"
# --auth none, --api-key=$KEY for a shell, --credentials ./file.json, {prompt}.
_SETTINGS = ("none", "true", "false", "auto", "basic", "bearer", "oauth")
_SETTINGS += ("0", "1", "empty", "...")
_ELSEWHERE = ("$", '"$', "`", "@", "<", "/", "./", "../", "~/", "{prompt")
_NAMED = re.compile(r"-*([A-Za-z][\w.-]*)\s*[=:]\s*(.+)", re.DOTALL)
_QUERY = re.compile(r"[?&#;]([\w.-]+)=([^&#;\s]+)")
# A variable that is set for a shell; JSON.
_INSIDE = re.compile(
  r"""\s([A-Z_]+)=([^\s;]+)|["']([\w.-]+)["']\s*:\s*["']([^"']+)"""
)
# Keys by their shape, wherever they stand; and -k KEY, -u USER:PASSWORD.
_KEY = re.compile(
  r"(^-[A-Za-z]|(?<![A-Za-z0-9]))((?=[\w-]*\d)(sk|pk|rk|gsk|hf|gh[a-z]|github_pat"
  r"|glpat|xox[a-z]|xai|nvapi|r8)[-_][\w-]{8,}|AKIA[A-Z0-9]{12,}|AIza[\w-]{30}|eyJ[\w-]{9,}\."
  r"|(Basic|Bearer|Token)\s+(?=\S*\d)[\w+/=.~-]{8,})|://[^/\s:@]*:[^/\s@$]+@"
  r"|BEGIN [A-Z ]*PRIVATE KEY"
)
_SHORT = re.compile(
  r"-k[ =]?(?![Tt]est)(?=\S*\d)(?=\S*[A-Za-z])[^\s/.$]{6,}"
  r"|(-u|-U|--user|--proxy-user)[ =]?(?!\d+:\d+$|(\w+):\2$|\+)"
  r"[^\s:/${]+:[^\s$]\S*"
)
_SHELLS = ("sh", "bash", "dash", "ash", "zsh", "ksh", "fish")
_SHELL_COMMAND = re.compile(r"-[a-zA-Z]*c[a-zA-Z]*")
NO_NAME = "must name an environment variable, and not say what it holds"
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*|[a-z]+(_[a-z]+)+")


def is_secret(name: str) -> bool:
  """Whether a value of this name is secret; one of max_tokens is not."""
  words = _HUMP.sub("_", name)
  return bool(_SECRET.search(words)) and not _OPEN.search(words)


def named(
  template, path: str = "", name: str | None = None
) -> Iterator[tuple[str, str, object]]:
  """(path, name, value) of every named value in a JSON template.

  An element of a list has the name of the list.
  """
  if name is not None:
    yield path, name, template
  if isinstance(template, dict):
    for key, value in template.items():
      yield from named(value, f"{path}[{key!r}]", key)
  elif isinstance(template, list | tuple):
    for i, value in enumerate(template):
      yield from named(value, f"{path}[{i}]", name)


def in_text(text: str) -> bool:
  """Whether a text holds a key: by its shape, or its name in an address."""
  text = urllib.parse.unquote(text)
  return any(map(_is_key, _QUERY.findall(text))) or bool(_KEY.search(text))


def in_argv(argv: tuple[str, ...]) -> Iterator[int]:
  """The places in a command of --api-key=VALUE, --api-key VALUE and such."""
  command = command_of_shell(argv)
  for i, (before, element) in enumerate(zip(("", *argv), argv, strict=False)):
    pairs = list(_pairs(element))
    if before.startswith("-") and "=" not in before and element[:1] != "-":
      pairs.append((before.lstrip("-"), element))
    if (
      any(map(_is_key, pairs))
      or in_text(element)
      or any(map(_SHORT.fullmatch, (element, f"{before} {element}")))
      or (element == command != "" and [*in_argv(_words(command))])
    ):
      yield i


def command_of_shell(argv: tuple[str, ...]) -> str:
  """The command that argv has a shell run by -c, if any."""
  names = [os.path.basename(element) for element in argv]
  shell = next((i for i, name in enumerate(names) if name in _SHELLS), None)
  rest = argv[len(argv) if shell is None else shell + 1 :]
  for i, element in enumerate(rest):
    if _SHELL_COMMAND.fullmatch(element):
      after = (e for e in rest[i + 1 :] if not e.startswith(("-", "+")))
      return next(after, "")
  return ""


def _words(text: str) -> tuple[str, ...]:
  """The words of a shell's command."""
  try:
    return tuple(shlex.split(text))
  except ValueError:  # an apostrophe in a here-document
    return tuple(text.split())


def _pairs(text: str) -> Iterator[tuple[str, str]]:
  """(name, value) of every named value in an argument."""
  for name, value, quoted, inner in _INSIDE.findall(text):
    yield name or quoted, value or inner
  if found := _NAMED.fullmatch(text):
    yield found.groups()
    yield from _pairs(found[2])


def may_name(variable: str) -> bool:
  """Whether a text can name a variable, rather than be a key in its place."""
  random = re.search(r"(?=[A-Z]*\d)[A-Z0-9]{16}", variable)
  return bool(_VARIABLE.fullmatch(variable)) and not random


def _is_key(pair: tuple[str, str]) -> bool:
  """Whether a (name, value) of an argument is a secret itself."""
  name, value = pair[0], re.sub(f"^{SCHEME}", "", pair[1])
  elsewhere = value.lower() in _SETTINGS or value.startswith(_ELSEWHERE)
  return is_secret(name) and not elsewhere
