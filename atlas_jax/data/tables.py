"""Reads tables of every format row by row, with FILE:LINE each.

  FILE                        by its ending: .csv, .tsv, .parquet, .json (an
                              array or lines); any other: JSON lines
  DIRECTORY, ORG/NAME[@REV]   the files that `datasets` finds there for a
                              split; `datasets` itself reads and runs none

Numbers are read as text, so that they keep the digits they are written with.
"""

import csv
import decimal
import os
import pathlib
from collections.abc import Iterator, Mapping

from atlas_jax import files, hub
from atlas_jax.data.problems import DataError
from atlas_jax.errors import one_line

Rows = Iterator[tuple[str, dict]]


def rows(path: str, *, name=None, split="train", files=None) -> Rows:
  """('FILE:LINE', row) of a file, or of a split of a directory or data set.

  Args:
    path: what config.data.path and the like say.
    name: of one of the tables of a data set that has several.
    split: its name.
    files: which files of a directory to read, instead of all.

  Raises:
    DataError: with the file and the line.
    HubError: there is no such data set.
  """
  place = _place(path)
  found = _files(place, name, split, files) if place.is_dir() else [path]
  for file in found:
    yield from _file(file)


def file_of(path: str, name: str) -> str:
  """A file: `path` itself, or the one called `name` in that directory."""
  place = _place(path)
  if not place.is_dir():
    return path
  found = sorted(place.rglob(name))
  if len(found) != 1:
    raise DataError(f"{path}: has {len(found)} files {name}, expected one")
  return str(found[0])


def _place(path: str) -> pathlib.Path:
  named = hub.is_name(path)
  return hub.directory(path, "dataset") if named else pathlib.Path(path)


def _files(place: pathlib.Path, name, split, data_files) -> list[str]:
  import datasets

  files.check_directory(place)
  for name_of_card in ("README.md", ".huggingface.yaml"):
    if (place / name_of_card).exists():
      _check_card(place / name_of_card)
  try:
    found = datasets.load_dataset_builder(
      str(place), name=name, data_files=data_files
    ).config.data_files
  except Exception as error:  # datasets raises many kinds
    why = one_line(error)
    raise DataError(f"{place} cannot be read: datasets says: {why}") from None
  if split not in found:
    raise DataError(
      f"{place}: has no split {split!r}; valid: {', '.join(map(str, found))}"
    )
  for file in found[split]:
    if not pathlib.Path(os.path.abspath(file)).is_relative_to(place.absolute()):
      raise DataError(f"{place}: {file} of the split {split} lies elsewhere")
  return found[split]


def _check_card(path: pathlib.Path) -> None:
  """Refuses a description by which `datasets` would ask other machines."""
  import yaml
  from huggingface_hub.repocard import REGEX_YAML_BLOCK

  text = files.read(path, DataError).decode(errors="replace")
  if path.suffix == ".md":
    block = REGEX_YAML_BLOCK.search(text)  # as `datasets` finds it
    text = block[2] if block else ""
  # Nodes, not values: references to one another stay what they are.
  try:
    todo, seen = [(yaml.compose(text), False)], set()
  except (yaml.YAMLError, RecursionError) as error:
    raise DataError(f"{path}: {one_line(error)}") from None
  while todo:
    node, named = todo.pop()
    if node is None or (id(node), named) in seen:
      continue
    seen.add((id(node), named))
    if isinstance(node, yaml.ScalarNode):
      if named and ("://" in node.value or "::" in node.value):
        raise DataError(f"{path}: {node.value[:200]!r} is no file beside it")
      continue
    for part in node.value:
      key, value = part if isinstance(part, tuple) else (None, part)
      files_here = key and key.value in ("data_files", "data_dir")
      todo.append((value, named or files_here))


def _file(path: str) -> Rows:
  kind = pathlib.Path(path).suffix.lower()
  if kind in _OTHERS:
    valid = ", ".join((".jsonl", *_READERS))
    raise DataError(f"{path}: {kind} is no ending of a table; valid: {valid}")
  return _READERS.get(kind, json_lines)(path)


def _refuse(constant):
  raise ValueError(f"{constant} is not a JSON value")


def _row(pairs) -> dict:
  """The row of (name, value) pairs."""
  row = {}
  for name, value in pairs:
    if name in row:  # neither is meant
      raise ValueError(f"{name!r} stands there twice")
    row[name] = value
  return row


_AS_TEXT = {"parse_float": str, "parse_int": str, "parse_constant": _refuse}
_AS_TEXT |= {"object_pairs_hook": _row}


def json_lines(path: str | pathlib.Path) -> Rows:
  """('FILE:LINE', object) for each line that is not blank."""
  for where, line in files.lines(path, DataError):
    if line.strip():
      yield where, row_of(line, where)


def row_of(line: bytes, where: str) -> dict:
  """The object that a line of JSON holds."""
  return _object(files.parse(line, where, DataError, **_AS_TEXT), where)


def _object(row, where: str) -> dict:
  if not isinstance(row, dict):
    raise DataError(
      f'{where}: expected an object such as {{"question": ..., "answer": ...}},'
      f" got {type(row).__name__}"
    )
  return row


def text_at(row: Mapping, key: str, where: str) -> str:
  """The non-empty text (or number, as text) under `key`."""
  value = row.get(key)
  if not isinstance(value, str) or not value.strip() or "\0" in value:
    state = "is missing" if key not in row else f"is {value!r}"
    raise DataError(
      f"{where}: {key!r} {state}; it must be a text or a number that is not"
      f" empty and holds no \\u0000; the line has {', '.join(row) or 'no keys'}"
    )
  return value.strip()


def _json(path: str) -> Rows:
  lines = (line for _, line in files.lines(path, DataError))
  first = next(filter(bytes.strip, lines), b"")
  if not first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
    yield from json_lines(path)
    return
  data = files.read(path, DataError)
  for i, row in enumerate(files.parse(data, path, DataError, **_AS_TEXT)):
    yield f"{path}[{i}]", _object(row, f"{path}[{i}]")


def _csv(path: str) -> Rows:
  csv.field_size_limit(files.LONGEST_LINE)
  where = str(path)

  def text():
    nonlocal where
    for where, line in files.lines(path, DataError):  # noqa: B007
      yield line.decode("utf-8-sig")

  delimiter = "\t" if str(path).lower().endswith(".tsv") else ","
  lines = filter(None, csv.reader(text(), delimiter=delimiter, strict=True))
  try:
    names = next(lines, [])
    for values in lines:
      if len(values) != len(names):
        raise DataError(f"{where}: not as many fields as the first line has")
      yield where, _row((n, v) for n, v in zip(names, values, strict=True) if n)
  except (csv.Error, ValueError) as error:
    raise DataError(f"{where}: {error}") from None


def _parquet(path: str) -> Rows:
  from pyarrow import parquet

  where, most = str(path), files.LONGEST_LINE
  # A file that is open: a name may be an address for pyarrow.
  with files.opened(path, DataError) as file:
    try:
      table = parquet.ParquetFile(file)
      _row((name, None) for name in table.schema_arrow.names)
      batches = table.iter_batches(batch_size=1000)
      for i, row in enumerate(row for b in batches for row in b.to_pylist()):
        where = f"{path}[{i}]"
        sized = (v for v in row.values() if isinstance(v, (str, bytes, list)))
        if any(len(value) > most for value in sized):
          raise ValueError(f"a cell of more than {most >> 20} MiB")
        yield where, {name: plain(value) for name, value in row.items()}
    except Exception as error:  # of pyarrow many kinds, of odd dates others
      why = f"not a whole Parquet file of text: {one_line(error)}"
      raise DataError(f"{where}: {why}") from None


_READERS = {".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
_OTHERS = (".gz", ".bz2", ".xz", ".zst", ".zip", ".arrow", ".feather", ".xlsx")


def plain(value):
  """A value of a table, as text where it is one in bytes, or a number."""
  if isinstance(value, bytes):
    try:
      return value.decode("utf-8")
    except UnicodeDecodeError:  # a picture, say, beside the question
      return value
  if isinstance(value, bool):
    return value
  number = isinstance(value, (int, float, decimal.Decimal))
  if number or getattr(value, "ndim", 1) == 0:
    return None if value != value else str(value)  # NaN is an empty cell
  return value
