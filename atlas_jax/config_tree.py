"""ConfigDicts and the dataclasses that they describe: built, checked, searched.

Used for every kind of config: of a run, the online half, an agent, the proxy.
What is valid stands beside what it is about:
  1. a choice is the field's type, a typing.Literal;
  2. so is a bound: Annotated[TYPE, Valid(words, holds)];
  3. values that do not go together are named by the method `conflicts` of
     their dataclass, a line each, without the path to it. A section that its
     dataclass names in `unread` is not asked.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from atlas_jax.errors import AtlasError
from atlas_jax.secret_names import is_secret


class ConfigError(AtlasError, ValueError):
  """A key, a value or a flag is wrong; the text says which and why."""


class Valid(NamedTuple):
  """What a value must be: in words, and as a test, which may also raise."""

  words: str
  holds: Callable[[Any], Any]
  shown: bool = True  # the value, in the error; it may be a secret


_ABOVE_0 = Valid("must be above 0", lambda x: x > 0)
_FROM_0 = Valid("must not be negative", lambda x: x >= 0)
PositiveInt = Annotated[int, _ABOVE_0]
PositiveFloat = Annotated[float, _ABOVE_0]
NonNegativeInt = Annotated[int, _FROM_0]
NonNegativeFloat = Annotated[float, _FROM_0]
_31_BITS = Valid("must be below 2**31", lambda n: n < 1 << 31)
Steps = Annotated[PositiveInt, _31_BITS]  # what an optimizer can count
# What numpy and JAX both draw from.
_32_BITS = Valid("must be below 2**32", lambda n: n < 1 << 32)
Seed = Annotated[NonNegativeInt, _32_BITS]
_TO_1 = Valid("must not be above 1", lambda x: x <= 1)
Share = Annotated[NonNegativeFloat, _TO_1]
PositiveShare = Annotated[PositiveFloat, _TO_1]

# Old key, or KEY=VALUE, -> the name that it has now, in whichever tree.
RENAMED = {
  **dict.fromkeys(("probe", "teaching", "solution", "teach"), "episode"),
  "episode.baseline_samples": "grpo.baseline_samples",
  "grpo.advantage=none": "grpo.advantage=centred",
  "grpo.delta": "grpo.ratio_cap",
  "grpo.micro_batches": "grpo.rows_per_device",
  "sft.micro_batches": "sft.rows_per_device",
  "grpo.entropy_quantile": "grpo.entropy_share",
  "probe.max_tokens": "episode.max_probe_tokens",
  "probe.temperature": "episode.probe_temperature",
  "prompts.student_diagnostic": "prompts.student_probe",
  "prompts.student_with_teaching": "prompts.student_taught",
  "prompts.teacher_adaptive": "prompts.teacher",
  "serving.delta": "serving.publish_changes",
  "serving.student_path": "student.path",
  "solution.max_tokens": "episode.max_solution_tokens",
  "solution.temperature": "episode.student_temperature",
  "teach.max_approach_chars": "episode.shown_probe_tokens",
  "teach.max_tokens": "episode.max_teaching_tokens",
  "teach.temperature": "episode.teacher_temperature",
  "teaching.max_approach_chars": "agent_probe_chars",
  "teaching.max_tokens": "episode.max_teaching_tokens",
  "teaching.temperature": "episode.teacher_temperature",
}


def tree_of(value) -> ConfigDict:
  """A config dataclass as a ConfigDict, open to `--config.x.y=` flags."""
  out, kinds = ConfigDict(), typing.get_type_hints(type(value))  # no bounds
  for f in dataclasses.fields(value):
    v = getattr(value, f.name)
    if dataclasses.is_dataclass(v):
      out[f.name] = tree_of(v)
    elif isinstance(v, dict):
      out[f.name] = ConfigDict(v)
    elif v is None:
      out[f.name] = config_dict.placeholder(_without_none(kinds[f.name]))
    else:
      out[f.name] = v
  return out


def _without_none(kind):
  """X of `X | None`."""
  (kind,) = [t for t in typing.get_args(kind) if t is not types.NoneType]
  return kind


def dotted(tree: Mapping, path: str = "") -> Iterator[str]:
  """Every key of a tree of mappings, as it stands after `config.`."""
  for key, value in tree.items():
    yield f"{path}{key}"
    if isinstance(value, Mapping | ConfigDict):
      yield from dotted(value, f"{path}{key}.")


def flat(tree: Mapping, path: str = "") -> Iterator[tuple[str, Any]]:
  """(dotted key, value) of every leaf of a tree of mappings."""
  for key, value in tree.items():
    if isinstance(value, Mapping | ConfigDict) and value:
      yield from flat(value, f"{path}{key}.")
    else:
      yield f"{path}{key}", value


def difference(one: Mapping, other: Mapping) -> list[tuple]:
  """(key, value in one, value in other) where two trees differ."""
  left, right = dict(flat(one)), dict(flat(other))
  keys = [*left, *(key for key in right if key not in left)]
  found = [
    (key, left.get(key), right.get(key))
    for key in keys
    if repr(left.get(key)) != repr(right.get(key))  # NaN is NaN
  ]
  return [
    (key, *("[hidden]" if is_secret(key) else v for v in values))
    for key, *values in found
  ]


def meant(path: str, tree: Mapping) -> str:
  """What to add to the error of an unknown key: its new name, or a guess.

  The guess, ` (did you mean ...?)`, holds the keys of `tree` of the name that
  `path` ends with, or of the one closest to it, the nearest first.
  """
  keys = list(dotted(tree))
  if RENAMED.get(path) in keys:
    return f" (it is config.{RENAMED[path]} now)"
  above = path.rpartition(".")[0]
  if isinstance(dict(flat(tree)).get(above), Mapping | ConfigDict):
    return f" (a dictionary without it is given whole: config.{above}={{...}})"
  lasts = {key.rpartition(".")[2] for key in keys}
  names = difflib.get_close_matches(path.rpartition(".")[2], lasts, n=1)
  places = [key for key in keys if key.rpartition(".")[2] in names]
  places = difflib.get_close_matches(path, places, n=3, cutoff=0)
  return f" (did you mean {' or '.join(map(repr, places))}?)" if places else ""


def _convert(value, kind, where: str, root):
  """`value` as `kind` (a dataclass field's type), or ConfigError."""
  origin = typing.get_origin(kind)
  if origin in (types.UnionType, typing.Union):
    if value in (None, "", "None"):  # the last two as a flag says it
      return None
    return _convert(value, _without_none(kind), where, root)
  if origin is Annotated:
    kind, *bounds = typing.get_args(kind)
    value = _convert(value, kind, where, root)
    for bound in bounds:
      try:
        holds, why = bound.holds(value), ""
      except Exception as error:  # of a parser, which knows what is wrong
        holds, why = False, f" ({error})"
      if not holds:
        shown = f"={value!r}" if bound.shown else ""
        raise ConfigError(f"{where}{shown} {bound.words}{why}")
    return value
  if origin is typing.Literal:
    valid = typing.get_args(kind)
    if value not in valid:
      new = RENAMED.get(f"{where.removeprefix('config.')}={value}")
      also = f" (it is config.{new} now)" if new else ""
      raise ConfigError(
        f"{where}={value!r} is not one of {', '.join(valid)}{also}"
      )
    return value
  if dataclasses.is_dataclass(kind):
    return _build(kind, value, where, root)
  if kind is dict:
    value = _keys(value, where)
    return value.to_dict() if isinstance(value, ConfigDict) else dict(value)
  if origin is tuple:
    (item, _) = typing.get_args(kind)
    if isinstance(value, str) or not hasattr(value, "__iter__"):
      raise ConfigError(f"{where} must be a tuple, got {value!r}")
    return tuple(_convert(v, item, where, root) for v in value)
  if kind is float and type(value) is int:
    try:
      return float(value)
    except OverflowError:
      raise ConfigError(f"{where} is too large for a float") from None
  if type(value) is not kind:
    raise ConfigError(
      f"{where} must be {kind.__name__}, got {type(value).__name__} {value!r}"
    )
  if kind is float and not math.isfinite(value):
    raise ConfigError(f"{where} must be a number, got {value}")
  return value


def _keys(value, where: str) -> Mapping:
  if isinstance(value, Mapping | ConfigDict):
    return value
  raise ConfigError(f"{where} must hold keys, got {value!r}")


def _build(cls, tree, where: str, root):
  fields = {f.name: f for f in dataclasses.fields(cls)}
  tree = vars(tree) if isinstance(tree, cls) else _keys(tree, where)
  for key in tree:
    if key not in fields:
      path = f"{where}.{key}".removeprefix("config.")
      hint = meant(path, tree_of(root()))
      raise ConfigError(
        f"unknown config key {where}.{key}{hint}; valid keys:"
        f" {', '.join(fields)}"
      )
  values = {}
  for name, f in fields.items():
    if name in tree:
      values[name] = _convert(tree[name], f.type, f"{where}.{name}", root)
  return cls(**values)


def conflicts(config, where: str) -> Iterator[str]:
  """One line for all values of `config` that do not go together."""
  unread = getattr(config, "unread", ())
  for name, value in vars(config).items():
    if dataclasses.is_dataclass(value) and name not in unread:
      yield from conflicts(value, f"{where}.{name}")
  for conflict in getattr(config, "conflicts", tuple)():
    yield f"{where}.{conflict}"


def build(cls, tree, where: str = "config"):
  """The config dataclass `cls` that `tree` (or one of `cls`) describes.

  Raises:
    ConfigError: an unknown key, a wrong type, a value outside its bounds, or
      values that do not go together; `where` is how its keys begin.
  """
  config = _build(cls, tree, where, cls)
  for conflict in conflicts(config, where):
    raise ConfigError(conflict)
  return config
