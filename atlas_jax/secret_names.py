"""Which values of a config are secrets, by their names.

Configs are written to files and logs, so a key does not stand in one.
"""

import re
from collections.abc import Iterator

_SECRET = re.compile(
  r"secret|password|passwd|passphrase|credential|authori[sz]ation"
  r"|authentication|cookie"
  r"|(api|access|auth|private|refresh|session|subscription)[-_. ]?"
  r"(key|token(?!s))"
  r"|token$|(^|[-_. ])(key|auth|pwd|bearer|jwt)$",
  re.IGNORECASE,
)
# Sampling parameters, keys of tables, and what says where a secret is.
_OPEN = re.compile(
  r"(^|[-_. ])((bos|eos|pad|stop)[-_. ]token"
  r"|(cache|sort|primary|foreign|partition)[-_. ]key"
  r"|file|path|env|name|url)$",
  re.IGNORECASE,
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# --auth none, --api-key=$KEY for a shell, --credentials ./file.json, {prompt}.
_SETTINGS = ("none", "true", "false", "auto", "basic", "bearer", "oauth")
_ELSEWHERE = ("$", '"$', "/", "./", "../", "~/", "{prompt")
_NAMED = re.compile(r"-*([A-Za-z][\w.-]*)\s*[=:]\s*(.+)", re.DOTALL)


def is_secret(name: str) -> bool:
  """Whether a value of this name is secret; max_tokens and keyword are not."""
  words = _HUMP.sub("_", name)
  return bool(_SECRET.search(words)) and not _OPEN.search(words)


def named(template, path: str = "") -> Iterator[tuple[str, str, object]]:
  """(path, name, value) of all that has a name in a JSON template.

  An element of a list has the name of the list.
  """
  if isinstance(template, dict):
    for name, value in template.items():
      yield from _under(name, value, f"{path}[{name!r}]")
  elif isinstance(template, list | tuple):
    for i, value in enumerate(template):
      yield from named(value, f"{path}[{i}]")


def _under(name, value, path: str):
  yield path, name, value
  if isinstance(value, dict):
    yield from named(value, path)
  elif isinstance(value, list | tuple):
    for i, element in enumerate(value):
      yield from _under(name, element, f"{path}[{i}]")


def in_argv(argv: tuple[str, ...]) -> Iterator[int]:
  """Where in a command --api-key=VALUE, --api-key VALUE or such stands."""
  for i, (before, element) in enumerate(zip(("", *argv), argv, strict=False)):
    pairs = [found.groups()] if (found := _NAMED.fullmatch(element)) else []
    if before.startswith("-") and "=" not in before and element[:1] != "-":
      pairs.append((before.lstrip("-"), element))
    if any(is_secret(name) and _is_told(value) for name, value in pairs):
      yield i


def _is_told(value: str) -> bool:
  """Whether an argument can be the secret itself."""
  return value.lower() not in _SETTINGS and not value.startswith(_ELSEWHERE)
