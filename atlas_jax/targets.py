"""Loads the objects that a config names: module:name, path/to/file.py:name."""

import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
import traceback
from collections.abc import Callable

from atlas_jax.config_tree import ConfigError


def load(target: str, where: str):
  """Imports a module and returns the object in it that `target` names.

  A file may import its neighbours, after everything else on the path.

  Raises:
    ConfigError: no such module, file or name, or its import fails.
  """
  head, _, name = target.rpartition(":")
  if not head:
    raise ConfigError(
      f"{where}={target!r} does not import: it must be MODULE:NAME or"
      " FILE.py:NAME"
    )
  is_file = head.endswith(".py")
  try:
    found = _file(head) if is_file else importlib.import_module(head)
  except (Exception, SystemExit) as error:
    file = head if is_file else head.replace(".", "/") + ".py"
    raise ConfigError(
      f"{where}={target!r}: {head} does not import: {_one_line(error, file)}"
    ) from error
  for part in name.split("."):
    if not hasattr(found, part):
      public = [key for key in vars(found) if not key.startswith("_")]
      raise ConfigError(
        f"{where}={target!r}: {head} has no {name!r}; it has"
        f" {', '.join(public) or 'no public name'}"
      )
    found = getattr(found, part)
  return found


def function(target: str, where: str, takes: int) -> Callable:
  """As load, for a function that is called with `takes` arguments."""
  found = load(target, where)
  if not callable(found):
    raise ConfigError(f"{where}={target!r} is not callable")
  try:
    inspect.signature(found).bind(*[None] * takes)
  except TypeError as error:
    raise ConfigError(
      f"{where}={target!r} is called with {takes} arguments: {error}"
    ) from None
  except ValueError:  # a builtin without a signature
    pass
  return found


def raised(error: BaseException, function: Callable) -> str:
  """The error of a user's function, with the line of its file that raised."""
  plain = inspect.unwrap(function)
  of_object = getattr(type(plain).__call__, "__code__", None)
  code = getattr(plain, "__code__", of_object)
  if code is None:  # a builtin
    return _one_line(error, "")
  return _one_line(error, code.co_filename, code.co_firstlineno)


def _one_line(error: BaseException, file: str, line: int | None = None) -> str:
  """The error and its last line in `file`; `line` where it has none there."""
  for frame in traceback.extract_tb(error.__traceback__):
    if file and frame.filename.endswith(file):
      file, line = frame.filename, frame.lineno
  at = "" if line is None else f" ({file}:{line})"
  # Its own __str__ may raise.
  text = str(traceback.TracebackException(type(error), error, None))
  return f"{type(error).__name__}: {' '.join(text.split())}{at}"


def _file(name: str):
  path = pathlib.Path(name).resolve(strict=True)
  digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
  key = f"atlas_target_{path.stem}_{digest}"
  if key in sys.modules:
    return sys.modules[key]
  if str(path.parent) not in sys.path:
    sys.path.append(str(path.parent))
  spec = importlib.util.spec_from_file_location(key, path)
  module = importlib.util.module_from_spec(spec)
  # Before the module runs: dataclasses look it up.
  sys.modules[key] = module
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[key]
    raise
  return module
