"""Reading and checking the files of a version before a model is touched.

A version may be many files, and a tensor may lie in several of them: cut into
boxes of the tensor seen as [its first axis, all others] (README.md).
"""

import itertools
import math
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blake3
import torch
from safetensors import SafetensorError, safe_open

from atlas_vllm import checksum
from atlas_vllm.destinations import Box, Pieces

_CHUNK = 1 << 20  # stays in the cache on its way
_LONGEST_TEXT = 1000
_BOUNDS = "([0-9]{1,18}):([0-9]{1,18})"
_BOX = re.compile(rf"(.+)\[{_BOUNDS},{_BOUNDS}\]", re.DOTALL)


class InvalidWeights(ValueError):
  """A file that must not be loaded; the text says what is wrong with it."""

  def __init__(self, text: str):
    super().__init__(one_line(text))


def one_line(text: str) -> str:
  """A text with a stranger's words in it, fit for logs and terminals."""
  text = text[:_LONGEST_TEXT]
  return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def each(names: Iterable[str], call: Callable) -> dict:
  """name -> call(name), several at a time."""
  names = list(names)
  with ThreadPoolExecutor(8) as pool:  # torch, numpy and blake3 free the GIL
    return dict(zip(names, pool.map(call, names), strict=True))


def inside(root: Path, path: str) -> Path:
  """`path` under `root`, links followed.

  Raises:
    InvalidWeights: it is elsewhere or is not a file.
  """
  try:
    full = (root / path).resolve()
    is_inside, is_file = full.is_relative_to(root.resolve()), full.is_file()
  except (OSError, RuntimeError, ValueError) as error:  # a loop, a NUL, ...
    raise InvalidWeights(f"{path[:100]!r} is no path: {error}") from error
  if not is_inside:
    raise InvalidWeights(f"{path!r} is outside the weights root {root}")
  if not is_file:
    raise InvalidWeights(f"{path!r} is not a file under {root}")
  return full


def most_bytes(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> int:
  """Of a version: a delta of every value with its gap, and headers."""
  values = sum(map(math.prod, shapes.values()))
  return (dtype.itemsize + 2) * values + 1000 * len(shapes) + (1 << 20)


def read_all(
  root: Path, files: dict[str, str], most: int
) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
  """(metadata, tensors) of the files of a version; see `read`.

  Args:
    root: they lie under it.
    files: path -> BLAKE3 of the file.
    most: bytes of all together.

  Raises:
    InvalidWeights: also if two files disagree, or have an entry in common.
  """
  paths = {path: inside(root, path) for path in files}
  size = sum(path.stat().st_size for path in paths.values())
  if size > most:
    raise InvalidWeights(
      f"the files have {size} bytes, more than the model can take: {most}"
    )
  found = each(files, lambda path: read(paths[path], most, files[path]))
  (metadata, _), *others = found.values()
  if any(other != metadata for other, _ in others):
    raise InvalidWeights("the files are of different versions")
  tensors: dict[str, torch.Tensor] = {}
  for _, more in found.values():
    refuse("has what another file has, too:", set(tensors) & set(more))
    tensors |= more
  return metadata, tensors


def read(
  path: Path, most: int, digest: str | None = None
) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
  """(metadata, tensors) of a safetensors file, in memory of our own.

  So what is checked is what is loaded, whatever becomes of the file. With
  `digest`, that is the BLAKE3 of its bytes.

  Raises:
    InvalidWeights: it is no whole safetensors file, or has more bytes.
  """
  try:
    with (
      # Should the path be a FIFO by now, opening it does not wait.
      open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as source,
      open(os.memfd_create("weights"), "wb") as copy,
    ):
      size = os.fstat(source.fileno()).st_size
      if size > most:
        raise InvalidWeights(
          f"{path.name} has {size} bytes, more than the model can take: {most}"
        )
      copy.truncate(size)
      found = blake3.blake3()
      for at in range(0, size, _CHUNK):
        part = os.pread(source.fileno(), min(_CHUNK, size - at), at)
        found.update(part)
        os.pwrite(copy.fileno(), part, at)
      if digest is not None and found.hexdigest() != digest:
        raise InvalidWeights(f"{path.name} has another BLAKE3 than announced")
      name = f"/proc/self/fd/{copy.fileno()}"
      with safe_open(name, framework="pt", device="cpu") as f:
        tensors = {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118
        return f.metadata() or {}, tensors
  except (SafetensorError, OSError, RuntimeError) as error:
    raise InvalidWeights(
      f"{path.name} is not a whole safetensors file: {error}"
    ) from error


def boxes(
  entries: Iterable[str], shapes: dict[str, tuple[int, ...]]
) -> dict[str, tuple[str, Box]]:
  """(tensor, box) of each entry: `NAME[0:8,16:32]`, or `NAME`, all of it.

  Raises:
    InvalidWeights: an unknown tensor, or bounds outside of it.
  """
  found, unknown = {}, set()
  for entry in entries:
    match = None if entry in shapes else _BOX.fullmatch(entry)
    name = match[1] if match else entry
    if name not in shapes:
      unknown.add(name)
      continue
    rows, columns = shapes[name][0], math.prod(shapes[name][1:])
    row, end, column, right = 0, rows, 0, columns
    if match:
      row, end, column, right = map(int, match.groups()[1:])
    if not (row < end <= rows and column < right <= columns):
      raise InvalidWeights(f"the file has {entry}, whose box is none of {name}")
    found[entry] = name, Box(row, column, end - row, right - column)
  refuse("has tensors unknown to the model", unknown)
  return found


def check(
  tensors: dict[str, torch.Tensor],
  shapes: dict[str, tuple[int, ...]],
  dtype: torch.dtype,
  promised: dict[str, str],
) -> dict[str, Pieces]:
  """The boxes of each tensor, which fit the model and are those announced.

  Args:
    tensors: what the files hold, whole or in boxes.
    shapes: what the model takes: every name must be there, and no other.
    dtype: what the model computes in: a cast would hide a difference.
    promised: the checksum of each whole tensor, from the sender.

  Raises:
    InvalidWeights: with the first few offending names.
  """
  placed, pieces = boxes(tensors, shapes), {}
  for entry, (name, box) in placed.items():
    pieces.setdefault(name, []).append((box, tensors[entry]))
  refuse("lacks tensors of the model", set(shapes) - set(pieces))

  def wanted(entry):
    return shapes[entry] if entry in shapes else placed[entry][1][2:]

  refuse(
    "has tensors of a wrong shape",
    (
      f"{entry} {tuple(t.shape)} instead of {wanted(entry)}"
      for entry, t in tensors.items()
      if tuple(t.shape) != wanted(entry)
    ),
  )
  refuse(
    f"has tensors that are not {dtype}",
    (f"{n} {t.dtype}" for n, t in tensors.items() if t.dtype != dtype),
  )
  check_promises(set(pieces), promised)

  def look(entry):
    tensor, (_, box) = tensors[entry], placed[entry]
    return checksum.of_box(tensor, box.row, box.column), finite(tensor)

  looked, totals = each(placed, look), dict.fromkeys(pieces, 0)
  for entry, (sums, _) in looked.items():
    name = placed[entry][0]
    totals[name] = totals[name] + sums
  compare({n: checksum.text(total) for n, total in totals.items()}, promised)
  refuse(
    "does not have each value once of",
    (n for n, held in pieces.items() if not _covers(held, shapes[n])),
  )
  refuse(
    "has NaN or infinite values in",
    (entry for entry, (_, is_finite) in looked.items() if not is_finite),
  )
  return pieces


def _covers(pieces: Pieces, shape: tuple[int, ...]) -> bool:
  """Whether each value of a tensor lies in one of its boxes, and in no other.

  A corner that an even number of boxes have cancels out. The tensor's own four
  are all that is left only if each value lies in an odd number of boxes, and
  that is 1 if the boxes have as many values as the tensor. So no two boxes need
  be compared.
  """

  def corners(box: Box) -> set[tuple[int, int]]:
    rows = box.row, box.row + box.rows
    columns = box.column, box.column + box.columns
    return set(itertools.product(rows, columns))

  size, odd = 0, set()
  for box, _ in pieces:
    size += box.rows * box.columns
    odd ^= corners(box)
  whole = Box(0, 0, shape[0], math.prod(shape[1:]))
  return size == math.prod(shape) and odd == corners(whole)


def check_promises(names: set[str], promised: dict[str, str]) -> None:
  """Refuses an update unless each tensor and no other has a checksum."""
  refuse("has no promised checksum for", names - set(promised))
  refuse("lacks tensors that were promised", set(promised) - names)


def compare(found: dict[str, str], promised: dict[str, str]) -> None:
  """Refuses tensors whose checksums are not those promised."""
  refuse(
    "has tensors that differ from their checksums",
    (name for name, sums in found.items() if sums != promised[name]),
  )


def finite(tensor: torch.Tensor) -> bool:
  """False if an element is NaN or infinite."""
  # The sum is finite unless an element is not (or the sum overflows), and
  # costs an eighth of looking at each element.
  return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def refuse(what: str, names: Iterable[str]) -> None:
  """Raises InvalidWeights if there are names, with the first few."""
  names = sorted(names)
  if names:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise InvalidWeights(f"the file {what}: {', '.join(names[:5])}{more}")
