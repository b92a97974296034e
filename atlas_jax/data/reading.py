"""Reads a source that config.data names, once its params and path are right."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from atlas_jax.config import DataConfig
from atlas_jax.data.problems import DataError

_TEXTS = "task name question answer split validation_split test_split data_dir"


@dataclass(frozen=True)
class Source:
  """A source of problems or SFT examples: its reader, params and path.

  One with a path is read by read(path, params), one that makes its own
  problems by read(params, seed).
  """

  read: Callable[..., list]
  needed: Collection[str] = ()  # names of params
  optional: Collection[str] = ()
  has_path: bool = False


def read(
  sources: Mapping[str, Source], config: DataConfig, prefix: str = ""
) -> list:
  """The problems or examples of the source that config.data names.

  Args:
    sources: the valid ones.
    config: config.data.
    prefix: of the keys source, params and path: "" or "sft_".

  Raises:
    DataError: an unknown source or name of a parameter, a parameter or path
      that is missing, or a path that is not read.
  """
  name = getattr(config, f"{prefix}source")
  if name not in sources:
    raise DataError(
      f"config.data.{prefix}source={name!r} is unknown; valid:"
      f" {', '.join(sources)}"
    )
  source = sources[name]
  given = getattr(config, f"{prefix}params")
  params = {key: value for key, value in given.items() if value is not None}
  valid = [*source.needed, *source.optional]
  wrong = [f"{key} is missing" for key in source.needed if key not in params]
  wrong += [f"{key} is unknown" for key in given if key not in valid]
  words = [key for key in params if key in _TEXTS.split()]
  wrong += [f"{n} must be text" for n in words if type(params[n]) is not str]
  if wrong:
    raise DataError(
      f"config.data.{prefix}params: {'; '.join(wrong)}; valid:"
      f" {', '.join(valid) or 'none'}"
    )
  path = getattr(config, f"{prefix}path")
  if source.has_path != (path is not None):
    wrong = f"config.data.{prefix}path is needed"
    if not source.has_path:
      wrong = f"the path {path!r} in config.data is not read"
    valid = [name for name, other in sources.items() if other.has_path]
    raise DataError(
      f"{wrong} by the source {name}; sources with a path: {', '.join(valid)}"
    )
  if source.has_path:
    return source.read(path, params)
  return source.read(params, config.seed)
