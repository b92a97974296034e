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
from typing import NamedTuple

import blake3
import torch
from safetensors import SafetensorError, safe_open

from atlas_vllm import checksum

RECEIVED = "received"  # under the root: what came by HTTP
_CHUNK = 1 << 20  # stays in the cache on its way
_LONGEST_TEXT = 1000
_BOX = re.compile(r"(.+)\[([0-9:,]{7,80})\]", re.DOTALL)
_BOUNDS = re.compile("([0-9]{1,18}):([0-9]{1,18}),([0-9]{1,18}):([0-9]{1,18})")


class InvalidWeights(ValueError):
  """A file that must not be loaded; the text says what is wrong with it."""

  def __init__(self, text: str):
    super().__init__(one_line(text))


def one_line(text: str) -> str:
  """A text with a stranger's words in it, fit for logs and terminals."""
  text = text[:_LONGEST_TEXT]
  return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def digests(
  names: Iterable[str], tensor: Callable[[str], torch.Tensor]
) -> dict[str, str]:
  """The checksum of `tensor(name)` for each name, several at a time."""
  return each(names, lambda n: checksum.text(checksum.of_box(tensor(n))))


def each(names: Iterable[str], call: Callable) -> dict:
  """name -> call(name), several at a time."""
  names = list(names)
  with ThreadPoolExecutor(8) as pool:  # torch, numpy and blake3 free the GIL
    return dict(zip(names, pool.map(call, names), strict=True))


def inside(root: Path, path: str) -> Path:
  """`path` under `root`, links followed; rather that which came by HTTP.

  Raises:
    InvalidWeights: it is elsewhere or is not a file.
  """
  try:
    sent = root / RECEIVED / path
    full = (sent if sent.is_file() else root / path).resolve()
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


class Box(NamedTuple):
  """Rows and columns of the tensor `name`, seen as [first axis, others]."""

  name: str
  row: int
  row_end: int
  column: int
  column_end: int

  @property
  def shape(self) -> tuple[int, int]:
    return self.row_end - self.row, self.column_end - self.column


def boxes(
  entries: Iterable[str], shapes: dict[str, tuple[int, ...]]
) -> dict[str, Box]:
  """What each entry is of: `NAME[0:8,16:32]`, or all of a tensor: `NAME`.

  Raises:
    InvalidWeights: an unknown tensor, bounds outside of it, or boxes that
      might overlap: those of one tensor must lie on one grid.
  """
  found, wrong, of_name = {}, set(), {}
  for entry in entries:
    match = None if entry in shapes else _BOX.fullmatch(entry)
    name, bounds = match.groups() if match else (entry, None)
    if name not in shapes:
      wrong.add(name)
      continue
    rows = shapes[name][0]
    all_of_it = 0, rows, 0, math.prod(shapes[name][1:])
    parsed = _BOUNDS.fullmatch(bounds) if match else None
    box = tuple(map(int, parsed.groups())) if parsed else all_of_it
    inside = 0 <= box[0] < box[1] <= rows and box[2] < box[3] <= all_of_it[3]
    if (match and not parsed) or not inside:
      raise InvalidWeights(f"the file has {entry}, whose box is none of {name}")
    found[entry] = Box(name, *box)
    of_name.setdefault(name, []).append(box)
  refuse("has tensors unknown to the model", wrong)
  refuse(
    "has overlapping parts of",
    (name for name, of_one in of_name.items() if not _on_a_grid(of_one)),
  )
  return found


def _on_a_grid(of_one: list[tuple[int, int, int, int]]) -> bool:
  """Whether boxes are different cells of one grid, so that none overlap."""
  for axis in (slice(0, 2), slice(2, 4)):
    cuts = sorted({box[axis] for box in of_one})
    if any(a[1] > b[0] for a, b in itertools.pairwise(cuts)):
      return False
  return len(set(of_one)) == len(of_one)


def check(
  tensors: dict[str, torch.Tensor],
  shapes: dict[str, tuple[int, ...]],
  dtype: torch.dtype,
  promised: dict[str, str],
) -> dict[str, list[tuple[Box, torch.Tensor]]]:
  """The boxes of each tensor, which fit the model and are those announced.

  Args:
    tensors: what the files hold, whole or in boxes.
    shapes: what the model takes: every name must be there, and no other.
    dtype: what the model computes in: a cast would hide a difference.
    promised: the checksum of each whole tensor, from the sender.

  Raises:
    InvalidWeights: with the first few offending names.
  """
  placed = boxes(tensors, shapes)
  pieces: dict[str, list] = {}
  for entry, box in placed.items():
    pieces.setdefault(box.name, []).append((box, tensors[entry]))
  refuse("lacks tensors of the model", set(shapes) - set(pieces))

  def wanted(entry):
    return shapes[entry] if entry in shapes else placed[entry].shape

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
  refuse(
    "lacks parts of",
    (
      name
      for name, parts in pieces.items()
      if sum(part.numel() for _, part in parts) != math.prod(shapes[name])
    ),
  )
  check_promises(set(pieces), promised)
  sums = each(
    placed,
    lambda n: checksum.of_box(tensors[n], placed[n].row, placed[n].column),
  )
  totals = dict.fromkeys(pieces, 0)
  for entry, box in placed.items():
    totals[box.name] = totals[box.name] + sums[entry]
  compare({n: checksum.text(total) for n, total in totals.items()}, promised)
  refuse(
    "has NaN or infinite values in",
    (name for name, t in tensors.items() if not finite(t)),
  )
  return pieces


def assemble(
  pieces: list[tuple[Box, torch.Tensor]], shape: tuple[int, ...]
) -> torch.Tensor:
  """The whole tensor of its boxes."""
  if len(pieces) == 1:
    return pieces[0][1].view(shape)
  whole = torch.empty(shape, dtype=pieces[0][1].dtype)
  rows = whole.view(shape[0], -1)
  for box, part in pieces:
    rows[box.row : box.row_end, box.column : box.column_end] = part
  return whole


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
