"""Reads files that a stranger may have made, within bounds; writes files whole.

  1. Only a regular file is read: a pipe waits for ever, a device never ends.
  2. A file, a line of one and the depth of a JSON value have a bound each.
  3. What stands in a directory lies in it; a new file follows no link.

Where a function takes `error`, it raises that.
"""

import contextlib
import json
import os
import pathlib
import re
import stat
from collections.abc import Container, Iterator
from typing import IO, Any

from atlas_jax.errors import AtlasError

LARGEST_FILE = 128 << 20  # bytes of a file that is read whole
LONGEST_LINE = 16 << 20  # bytes
DEEPEST = 64  # arrays and objects in one another
_LFS = b"version https://git-lfs.github.com/spec/"


class FileError(AtlasError, ValueError):
  """A file that cannot be used; the text names it and says why."""


@contextlib.contextmanager
def opened(path, error: type[Exception] = FileError) -> Iterator[IO[bytes]]:
  """A regular file to read from, whose failures are `error` too."""
  try:
    file = open(  # noqa: SIM115 it is closed below
      path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)
    )
  except (OSError, ValueError) as e:  # ValueError: a NUL in the path
    why = getattr(e, "strerror", None) or e
    raise error(f"{path} cannot be read: {why}") from None
  with file:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
      raise error(f"{path} cannot be read: a pipe or device is no file")
    try:
      if file.peek(len(_LFS)).startswith(_LFS):
        raise error(f"{path} is a pointer of Git LFS; `git lfs pull` gets it")
      yield file
    except OSError as e:
      raise error(f"{path} cannot be read: {e.strerror or e}") from None


def check_file(path, error: type[Exception]) -> None:
  """Refuses what another reader would take: see `opened`."""
  with opened(path, error):
    pass


def read(path, error: type[Exception] = FileError) -> bytes:
  """The whole content of a file."""
  with opened(path, error) as file:
    data = file.read(LARGEST_FILE + 1)
  if len(data) > LARGEST_FILE:
    raise error(f"{path} cannot be read: more than {LARGEST_FILE >> 20} MiB")
  return data


def lines(
  path, error: type[Exception] = FileError
) -> Iterator[tuple[str, bytes]]:
  """('FILE:LINE', line) for each line, which keeps its newline."""
  with opened(path, error) as file:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
      number += 1
      where = f"{path}:{number}"
      if len(line) > LONGEST_LINE:
        raise error(f"{where}: a line of more than {LONGEST_LINE >> 20} MiB")
      yield where, line


def parse(
  data: bytes,
  where,
  error: type[Exception] = FileError,
  any_text: bool = False,
  **options,
) -> Any:
  """The JSON value of UTF-8 text.

  Its texts can be sent on, unless `any_text`; `options` are json.loads's.
  """
  try:
    text = data.decode("utf-8-sig")
    value = json.loads(text, **options)
    # Only an escape can spell a character that UTF-8 cannot hold.
    if "\\u" in text or text.count("[") + text.count("{") > DEEPEST:
      _check(value, DEEPEST, any_text)
  except (ValueError, RecursionError) as e:
    raise error(f"{where}: not valid JSON: {e}") from None
  return value


def _check(value, levels: int, any_text: bool) -> None:
  """Raises ValueError for a value that could not be sent or written on."""
  if isinstance(value, str):
    if not any_text and re.search("[\0\ud800-\udfff]", value):
      raise ValueError("\\u0000 or half a surrogate pair in a text")
  elif isinstance(value, (dict, list)):
    if not levels:
      raise ValueError(f"more than {DEEPEST} levels deep")
    items = [*value, *value.values()] if isinstance(value, dict) else value
    for item in items:
      _check(item, levels - 1, any_text)


def misfit(value, shape, at: str = "it") -> str | None:
  """What is wrong with the first place of a JSON value that has no such shape.

  A shape is a type; {key: shape}, an object with at least these keys; or
  [shape], a list of one or more. None: the value has it.
  """
  kind = type(shape) if isinstance(shape, dict | list) else shape
  if not isinstance(value, kind):
    return f"{at} is {json.dumps(value)[:60]}"
  parts = []
  if isinstance(shape, dict):
    if missing := [key for key in shape if key not in value]:
      return f"{at} has no {missing[0]}"
    parts = [(value[key], of, key) for key, of in shape.items()]
  if isinstance(shape, list):
    parts = [(item, shape[0], f"an item of {at}") for item in value]
    if not parts:
      return f"{at} is empty"
  found = (misfit(*part) for part in parts)
  return next((what for what in found if what is not None), None)


def read_json(path, error: type[Exception] = FileError) -> dict[str, Any]:
  """The JSON object that a file holds."""
  value = parse(read(path, error), path, error)
  if not isinstance(value, dict):
    raise error(f"{path}: expected an object, got {type(value).__name__}")
  return value


def check_directory(
  root: str | os.PathLike, names: Container[str] | None = None
) -> None:
  """Refuses a directory with an entry that lies elsewhere.

  A link in it may lead to another place in it or, as in Hugging Face's cache,
  from models--X/snapshots/Y to models--X/blobs. Weights may have more than one
  hard link, since no file of weights is copied or appended to.

  Args:
    root: may be a link itself.
    names: of the entries to look at, up to a dot; None: all but hidden ones.

  Raises:
    FileError: names the entry and says what it is.
  """
  home = pathlib.Path(os.path.realpath(root))
  homes = [home]
  if home.parent.name == "snapshots":
    homes.append(home.parent.parent / "blobs")

  def looked_at(name: str) -> bool:
    shown = names is None or name.split(".")[0] in names
    return shown and not name.startswith(".")

  for folder, *kinds in os.walk(root):
    for entries in kinds:
      if folder == os.fspath(root):
        entries[:] = filter(looked_at, entries)
      for name in entries:
        path = os.path.join(folder, name)
        if problem := _problem(path, homes):
          raise FileError(f"{path} {problem}")


def _problem(path: str, homes: list[pathlib.Path]) -> str | None:
  """Why an entry of a directory is not a file or directory of its own."""
  real = pathlib.Path(os.path.realpath(path))
  if not any(real.is_relative_to(home) for home in homes):
    return f"is a link to {real}; valid: files in {homes[0]} itself"
  try:
    found = real.lstat()
  except OSError as e:
    return f"cannot be read: {e.strerror}"
  if stat.S_ISDIR(found.st_mode):
    return None
  if not stat.S_ISREG(found.st_mode):
    return "is neither a file nor a directory"
  if found.st_nlink > 1 and real.suffix != ".safetensors":
    return "is a hard link; put a copy in its place"
  return None


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """A new file that takes the place of `path`, whole, at the end."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".partial")
  partial.unlink(missing_ok=True)
  with open(partial, "xb") as file:
    yield file
  os.replace(partial, path)
