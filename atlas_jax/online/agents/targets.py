"""module:name and path/to/file.py:name: objects that a config names."""

import hashlib
import importlib
import importlib.util
import pathlib
import sys

from atlas_jax.config import ConfigError


def load(target: str, where: str):
  """The object that `target` names; its module is imported.

  A file may import its neighbours, after everything else on the path.

  Raises:
    ConfigError: no such module, file or name, or its import fails.
  """
  head, _, name = target.rpartition(":")
  try:
    module = _file(head) if head.endswith(".py") else _module(head)
  except (Exception, SystemExit) as error:
    raise ConfigError(
      f"{where}={target!r}: {head} does not import:"
      f" {type(error).__name__}: {error}"
    ) from error
  if not hasattr(module, name):
    public = [key for key in vars(module) if not key.startswith("_")]
    raise ConfigError(
      f"{where}={target!r}: {head} has no {name!r}; it has"
      f" {', '.join(public) or 'no public name'}"
    )
  return getattr(module, name)


def _module(name: str):
  return importlib.import_module(name)


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
  # Before it runs: dataclasses look their module up.
  sys.modules[key] = module
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[key]
    raise
  return module
