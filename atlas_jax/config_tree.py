"""ConfigDicts and the dataclasses that they describe: built, checked, searched.

Used for every kind of config: of a run, the online half, an agent, the proxy.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from ml_collections import ConfigDict, config_dict

from atlas_jax.errors import AtlasError


class ConfigError(AtlasError, ValueError):
  """A key or value of the config is wrong; the text says which and why."""


# Numbers whose bound stands at their field, as choices do by typing.Literal.
_ABOVE_0, _FROM_0 = "must be above 0", "must not be negative"
PositiveInt = Annotated[int, _ABOVE_0]
PositiveFloat = Annotated[float, _ABOVE_0]
NonNegativeInt = Annotated[int, _FROM_0]
NonNegativeFloat = Annotated[float, _FROM_0]


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


# Keys of an older version -> those of today.
_RENAMED = {
  "prompts.student_diagnostic": "prompts.student_probe",
  "prompts.teacher_adaptive": "prompts.teacher",
  "prompts.student_with_teaching": "prompts.student_taught",
  "episode.baseline_samples": "grpo.baseline_samples",
  "probe.max_tokens": "episode.max_probe_tokens",
  "probe.temperature": "episode.probe_temperature",
  "teaching.max_tokens": "episode.max_teaching_tokens",
  "teaching.temperature": "episode.teacher_temperature",
  "teaching.max_approach_chars": "agent_probe_chars",
  "solution.max_tokens": "episode.max_solution_tokens",
  "solution.temperature": "episode.student_temperature",
  "teach.max_tokens": "episode.max_teaching_tokens",
  "teach.temperature": "episode.teacher_temperature",
  "teach.max_approach_chars": "episode.shown_probe_tokens",
}
_RENAMED |= dict.fromkeys(("probe", "teaching", "solution", "teach"), "episode")


def meant(path: str, keys: Iterable[str]) -> str:
  """` (did you mean ...?)`: the keys of the name that `path` ends with, or
  of the one closest to it, the nearest first. A renamed key has its new name.
  """
  keys = list(keys)
  if _RENAMED.get(path) in keys:
    return f" (it is config.{_RENAMED[path]} now)"
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
    kind, bound = typing.get_args(kind)
    value = _convert(value, kind, where, root)
    if value < 0 or (value == 0 and bound == _ABOVE_0):
      raise ConfigError(f"config.{where}={value} {bound}")
    return value
  if origin is typing.Literal:
    valid = typing.get_args(kind)
    if value not in valid:
      raise ConfigError(
        f"config.{where}={value!r} is not one of {', '.join(valid)}"
      )
    return value
  nested = dataclasses.is_dataclass(kind)
  if (nested or kind is dict) and not isinstance(value, Mapping | ConfigDict):
    raise ConfigError(f"config.{where} must hold keys, got {value!r}")
  if nested:
    return _build(kind, value, where, root)
  if kind is dict:
    return value.to_dict() if isinstance(value, ConfigDict) else dict(value)
  if origin is tuple:
    (item, _) = typing.get_args(kind)
    if isinstance(value, str) or not hasattr(value, "__iter__"):
      raise ConfigError(f"config.{where} must be a tuple, got {value!r}")
    return tuple(_convert(v, item, where, root) for v in value)
  if kind is float and type(value) is int:
    return float(value)
  if type(value) is not kind:
    raise ConfigError(
      f"config.{where} must be {kind.__name__}, got"
      f" {type(value).__name__} {value!r}"
    )
  if kind is float and math.isnan(value):
    raise ConfigError(f"config.{where} must be a number, got nan")
  return value


def _build(cls, tree, where: str, root):
  fields = {f.name: f for f in dataclasses.fields(cls)}
  prefix = f"{where}." if where else ""
  for key in tree:
    if key not in fields:
      hint = meant(f"{prefix}{key}", dotted(tree_of(root())))
      raise ConfigError(
        f"unknown config key config.{prefix}{key}{hint}; valid keys:"
        f" {', '.join(fields)}"
      )
  values = {}
  for name, f in fields.items():
    if name in tree:
      values[name] = _convert(tree[name], f.type, f"{prefix}{name}", root)
  return cls(**values)


def build(cls, tree: ConfigDict):
  """The config dataclass `cls` that `tree` describes.

  Raises:
    ConfigError: an unknown key, a wrong type, a value outside its bounds.
  """
  return _build(cls, tree, "", cls)
