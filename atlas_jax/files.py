"""Files that a stranger may have made: read within bounds, written in place.

  1. Only a regular file is read: a pipe waits for ever, a device never ends.
  2. A file, a line of one and the depth of a JSON value have a bound each.
  3. What stands in a directory lies in it; a new file follows no link.

Where a function takes `error`, that is what it raises.
"""

import contextlib
import json
import os
import pathlib
import stat
from collections.abc import Container, Iterator
from typing import IO, Any

from atlas_jax.errors import AtlasError

MOST_BYTES = 128 << 20  # of a file that is read whole
LONGEST_LINE = 16 << 20  # bytes
DEEPEST = 64  # arrays and objects in one another


class FileError(AtlasError, ValueError):
  """A file cannot be used; the text names it and says why."""


def _opened(path, error: type[Exception]) -> IO[bytes]:
  try:
    file = open(  # noqa: SIM115 the caller closes it
      path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)
    )
  except (OSError, ValueError) as e:  # ValueError: a NUL in the path
    why = getattr(e, "strerror", None) or e
    raise error(f"{path} cannot be read: {why}") from None
  if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
    file.close()
    raise error(f"{path} cannot be read: a pipe or device is no file")
  return file


def read(path, error: type[Exception] = FileError) -> bytes:
  """All of a file."""
  with _opened(path, error) as file:
    data = file.read(MOST_BYTES + 1)
  if len(data) > MOST_BYTES:
    raise error(f"{path} cannot be read: more than {MOST_BYTES >> 20} MiB")
  return data


def lines(
  path, error: type[Exception] = FileError
) -> Iterator[tuple[str, bytes]]:
  """('FILE:LINE', line) of each line, with the newline that ends it."""
  with _opened(path, error) as file:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
      number += 1
      where = f"{path}:{number}"
      if len(line) > LONGEST_LINE:
        raise error(f"{where}: a line of more than {LONGEST_LINE >> 20} MiB")
      yield where, line


def parse(
  data: bytes, where, error: type[Exception] = FileError, **options
) -> Any:
  """The JSON value of UTF-8 text; `options` are those of json.loads."""
  try:
    text = data.decode("utf-8-sig")
    value = json.loads(text, **options)
    # Only an escape spells what UTF-8 cannot hold.
    if "\\u" in text or text.count("[") + text.count("{") > DEEPEST:
      _check(value, DEEPEST)
  except (ValueError, RecursionError) as e:
    raise error(f"{where}: not valid JSON: {e}") from None
  return value


def _check(value, levels: int) -> None:
  """Raises ValueError for a value that could not be sent or written on."""
  if isinstance(value, str):
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
      raise ValueError("\\u0000 or half a surrogate pair in a text")
  elif isinstance(value, (dict, list)):
    if not levels:
      raise ValueError(f"more than {DEEPEST} levels deep")
    items = [*value, *value.values()] if isinstance(value, dict) else value
    for item in items:
      _check(item, levels - 1)


def read_json(path, error: type[Exception] = FileError) -> dict[str, Any]:
  """The JSON object that a file holds."""
  value = parse(read(path, error), path, error)
  if not isinstance(value, dict):
    raise error(f"{path}: expected an object, got {type(value).__name__}")
  return value


def check_directory(
  root: str | os.PathLike, names: Container[str] | None = None
) -> None:
  """Refuses a directory in which something lies elsewhere.

  A link in it may lead to another place in it or, as in Hugging Face's cache,
  from models--X/snapshots/Y to models--X/blobs. Weights may have more than one
  hard link, since no file of weights is copied or appended to.

  Args:
    root: may be a link itself.
    names: of the entries to look at, up to a dot; None: all but hidden ones.

  Raises:
    FileError: with the name and what it is.
  """
  home = pathlib.Path(os.path.realpath(root))
  homes = [home]
  if home.parent.name == "snapshots":
    homes.append(home.parent.parent / "blobs")
  for folder, *kinds in os.walk(root):
    for found in kinds:
      if folder == os.fspath(root):
        found[:] = [
          name
          for name in found
          if not name.startswith(".")
          and (names is None or name.split(".")[0] in names)
        ]
      for path in (os.path.join(folder, name) for name in found):
        real = pathlib.Path(os.path.realpath(path))
        if not any(real.is_relative_to(h) for h in homes):
          raise FileError(
            f"{path} is a link to {real}; valid: files in {root} itself"
          )
        try:
          seen = os.lstat(real)
        except OSError as e:
          raise FileError(f"{path} cannot be read: {e.strerror}") from None
        is_file = stat.S_ISREG(seen.st_mode)
        if not (is_file or stat.S_ISDIR(seen.st_mode)):
          raise FileError(f"{path} is neither a file nor a directory")
        if is_file and seen.st_nlink > 1 and real.suffix != ".safetensors":
          raise FileError(f"{path} is a hard link; put a copy in its place")


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """A new file that takes the place of `path`, whole, at the end."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".partial")
  partial.unlink(missing_ok=True)
  with open(partial, "xb") as file:
    yield file
  os.replace(partial, path)
