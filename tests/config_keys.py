"""configs/keys.md: every key of every config, made from their dataclasses.

  python -m tests.config_keys

writes it. A key's meaning is the comment at its field, above it or behind it;
config_meanings.py has the words where there is none or it is not enough.
"""

import ast
import dataclasses
import importlib
import inspect
import io
import pathlib
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator

from atlas_jax.config import RunConfig
from atlas_jax.online.agents.config import AgentConfig
from atlas_jax.online.production.config import ProxyConfig
from atlas_jax.online.search.config import OnlineConfig
from tests.config_meanings import MEANINGS

PATH = pathlib.Path(__file__).resolve().parent.parent / "configs" / "keys.md"
COMMAND = "python -m tests.config_keys"
ROOTS = {
  "train": RunConfig,
  "optimize": OnlineConfig,
  "agent_check": AgentConfig,
  "proxy": ProxyConfig,
}
HEAD = f"""\
# Every key

Made by `{COMMAND}` from the dataclasses; do not edit it. A
key stands after `--config.` on the command line and after `config.` in a file.
What the launchers `train`, `evaluate`, `serve` and `teachable` read is called
*train* here; the others are called by their names. A default that depends on
the place is given for each. [README.md](README.md) says what to choose.
"""


@dataclasses.dataclass(frozen=True)
class Place:
  """One place of a config dataclass: its values there are the defaults."""

  root: str
  path: str
  config: object

  @property
  def name(self) -> str:
    return f"`{self.path}` ({self.root})" if self.path else f"({self.root})"


def places() -> dict[type, list[Place]]:
  """Every config dataclass with the places where it stands."""
  found: dict[type, list[Place]] = {}

  def walk(place: Place) -> None:
    found.setdefault(type(place.config), []).append(place)
    for field in dataclasses.fields(place.config):
      value = getattr(place.config, field.name)
      if dataclasses.is_dataclass(value):
        path = f"{place.path}.{field.name}".lstrip(".")
        walk(Place(place.root, path, value))

  for root, cls in ROOTS.items():
    walk(Place(root, "", cls()))
  return found


def comments(cls: type) -> dict[str, str]:
  """field -> the comment above it and the one behind it; inherited ones too."""
  found = {}
  for base in reversed(cls.__mro__[:-1]):
    found |= _own_comments(base)
  return found


def _own_comments(cls: type) -> dict[str, str]:
  source = textwrap.dedent(inspect.getsource(cls))
  (node,) = ast.parse(source).body
  lines = source.splitlines()
  said = {
    token.start[0]: token.string.lstrip("# ").strip()
    for token in tokenize.generate_tokens(io.StringIO(source).readline)
    if token.type == tokenize.COMMENT
  }
  found = {}
  for field in node.body:
    if not isinstance(field, ast.AnnAssign):
      continue
    first = field.lineno
    while lines[first - 2].strip().startswith("#"):
      first -= 1
    numbers = range(first, field.end_lineno + 1)
    found[field.target.id] = " ".join(said[n] for n in numbers if n in said)
  return found


def meaning(cls: type, name: str, comment: str) -> str:
  """What stands in the table; empty where nobody has said it."""
  words = MEANINGS.get(f"{cls.__name__}.{name}", "")
  if not words or not comment or words.endswith("."):
    return words or comment
  return f"{words} {comment}" if words[-1] in ":;," else f"{words}; {comment}"


def kind(of) -> str:
  """A field's type in words."""
  arguments = typing.get_args(of)
  origin = typing.get_origin(of)
  if origin in (types.UnionType, typing.Union):
    words = ["None" if t is types.NoneType else kind(t) for t in arguments]
    return (", or " if "," in words[0] else " or ").join(words)
  if origin is typing.Annotated:
    base, *bounds = arguments
    words = ", ".join([kind(base), *(bound.words for bound in bounds)])
    return words.replace("must be ", "").replace("must not be", "not")
  if origin is typing.Literal:
    return "one of " + ", ".join(arguments)
  if origin is tuple:
    return f"tuple of {kind(arguments[0])}"
  return of.__name__


def shown(value) -> str:
  """A default as one writes it in a config file, shortened."""
  if isinstance(value, int) and value >= 1 << 20 and value % (1 << 20) == 0:
    return f"`{value}` ({value >> 20} MiB)"
  text = repr(value)
  return f"`{text if len(text) < 60 else text[:44] + '...' + text[-1]}`"


def default(name: str, at: list[Place]) -> str:
  values: dict[str, list[str]] = {}
  for place in at:
    values.setdefault(shown(getattr(place.config, name)), []).append(place.name)
  if len(values) == 1:
    return next(iter(values))
  return "; ".join(f"{value} {', '.join(at)}" for value, at in values.items())


def plain(text: str) -> str:
  """`text` so that Markdown shows it as it is, in a cell of a table."""
  for mark, instead in (("<", "&lt;"), ("|", "\\|"), ("*", "\\*")):
    text = text.replace(mark, instead)
  return text


def section(cls: type, at: list[Place]) -> Iterator[str]:
  """The lines of one dataclass."""
  if any(not place.path for place in at):
    (top,) = (place for place in at if not place.path)
    yield f"\n## Of {top.root}"
    at_inside = [place.name for place in at if place.path]
    if at_inside:
      yield f"\nAlso {', '.join(at_inside)}."
  else:
    yield f"\n### {', '.join(place.name for place in at)}"
  module = importlib.import_module(cls.__module__)
  if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("):
    yield f"\n{plain(inspect.cleandoc(cls.__doc__))}"
  yield "\n| key | type | default | meaning |\n| --- | --- | --- | --- |"
  said = comments(cls)
  hints = typing.get_type_hints(cls, vars(module), include_extras=True)
  for field in dataclasses.fields(cls):
    if not dataclasses.is_dataclass(hints[field.name]):
      cells = (
        f"`{field.name}`",
        plain(kind(hints[field.name])),
        default(field.name, at).replace("|", "\\|"),
        plain(meaning(cls, field.name, said[field.name])),
      )
      yield f"| {' | '.join(cells)} |"


def document() -> str:
  lines = (line for item in places().items() for line in section(*item))
  return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
  PATH.write_text(document(), encoding="utf-8")
