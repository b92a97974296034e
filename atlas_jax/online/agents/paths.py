"""Where in a JSON reply a value stands: choices[0].message.content.

Keys are parted by dots; a list is indexed by [0], [-1] or .0; a key with dots
or brackets is quoted, as in ["a.b"][0].
"""

import json
import re

from atlas_jax.config import ConfigError
from atlas_jax.errors import AtlasError

_STEP = re.compile(
  r'(?:(?:^|\.)(?P<key>[^.\[\]"]+))|\[(?P<index>-?\d+)\]'
  r'|\[(?P<quoted>"(?:[^"\\]|\\.)*")\]'
)
_LONGEST_SHAPE = 300  # characters
_DEEPEST_SHAPE = 50  # levels; more may be more than the stack holds


class NoSuchPath(AtlasError):
  """Nothing stands there; the text says how far the path goes."""


def parse(path: str, where: str) -> tuple[str, ...]:
  """The steps of a path.

  Raises:
    ConfigError: it is no path; the text begins with `where`, its key.
  """
  steps, end = [], 0
  while end < len(path):
    found = _STEP.match(path, end)
    if found is None:
      break
    quoted = found["quoted"]
    steps.append(found["key"] or found["index"] or json.loads(quoted))
    end = found.end()
  if not steps or end < len(path):
    raise ConfigError(
      f"{where}={path!r} is no path; write it as choices[0].message.content,"
      ' data.items.0.text or ["a.b"][0]'
    )
  return tuple(steps)


def follow(value, steps: tuple[str, ...]):
  """What stands at the end of the path.

  Raises:
    NoSuchPath: it ends before; the text shows the shape of what is there.
  """
  for i, step in enumerate(steps):
    try:
      if isinstance(value, list):
        value = value[int(step)]
      elif isinstance(value, dict):
        value = value[step]
      else:
        raise KeyError(step)
    except (LookupError, ValueError):
      before = "the reply" if i == 0 else f"what is at {'.'.join(steps[:i])}"
      raise NoSuchPath(
        f"{before} has no {step!r}; its shape is {shape(value)}"
      ) from None
  return value


def text_at(value, steps: tuple[str, ...]) -> str | None:
  """The text at the end of the path; a number as JSON writes it.

  Raises:
    NoSuchPath: as `follow`, or an object or a list stands there.
  """
  found = follow(value, steps)
  if isinstance(found, dict | list):
    raise NoSuchPath(f"that is no text; its shape is {shape(found)}")
  if found is None or isinstance(found, str):
    return found
  return json.dumps(found)


def shape(value) -> str:
  """The keys and types of a JSON value, none of its content."""
  text = _shape(value, _DEEPEST_SHAPE)
  if len(text) <= _LONGEST_SHAPE:
    return text
  return text[: _LONGEST_SHAPE - 3] + "..."


def _shape(value, levels: int) -> str:
  if levels == 0 and isinstance(value, dict | list):
    return "..."
  if isinstance(value, dict):
    inner = (f"{k}: {_shape(item, levels - 1)}" for k, item in value.items())
    return "{" + ", ".join(inner) + "}"
  if isinstance(value, list):
    inner = value and f"{len(value)} x {_shape(value[0], levels - 1)}"
    return f"[{inner or ''}]"
  return "null" if value is None else type(value).__name__
