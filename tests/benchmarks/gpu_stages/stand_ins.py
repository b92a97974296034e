"""Stand-ins for packages of ours that a machine with a GPU may not have.

Only those that the benchmark imports and hardly uses; to be installed before
atlas_jax is imported. What a stand-in makes is never in a number, but for the
hash: the row of the table then says which one it was.
"""

import hashlib
import importlib
import sys
import types


class _Anything(type):
  """A class whose attributes, subscripts and instances are more of the kind."""

  def __getattr__(cls, name: str):
    if name.startswith("__"):
      raise AttributeError(name)
    return _Anything(name, (), {"__init__": lambda self, *a, **k: None})

  def __getitem__(cls, item):
    return cls


class _Typed:
  """jaxtyping's Float and the like: a parameter's axes are read from it."""

  def __getitem__(self, item):
    _, axes = item
    return type("Typed", (), {"dim_str": axes.strip()})


def _module(name: str) -> types.ModuleType:
  module = types.ModuleType(name)
  module.__getattr__ = _Anything.__getattr__.__get__(_Anything(name, (), {}))
  return module


def _jaxtyping() -> types.ModuleType:
  module = _module("jaxtyping")
  for name in ("Array", "Bool", "Float", "Int", "PyTree"):
    setattr(module, name, _Typed())
  module.Array = module.DTypeLike = object
  return module


def _blake3() -> types.ModuleType:
  def sha256(content: bytes = b"", max_threads: int = 1):
    del max_threads
    return hashlib.sha256(content)

  sha256.AUTO = -1
  module = _module("blake3")
  module.blake3, module.STAND_IN = sha256, "SHA-256"
  return module


_MAKE = {
  **dict.fromkeys(("aiohttp", "chex", "ml_collections"), _module),
  "blake3": lambda name: _blake3(),
  "jaxtyping": lambda name: _jaxtyping(),
}


def install() -> list[str]:
  """Puts a stand-in wherever a package is missing; returns their names."""
  missing = []
  for name, make in _MAKE.items():
    try:
      importlib.import_module(name)
    except ImportError:
      sys.modules[name] = make(name)
      missing.append(name)
  return missing
