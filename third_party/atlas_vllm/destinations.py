"""Where each tensor of a checkpoint lies in a running vLLM model.

vLLM fuses tensors (q, k and v into one; gate and up into one), pads the
vocabulary and gives each rank of a tensor-parallel engine its part, and only a
model's own `load_weights` knows how. So we call it once with meta tensors,
which have a shape and no data, and write down the copies that it wants to make
instead of making them. The answer serves both ways: loading a tensor is the
copies; reading back what the model holds is the copies reversed.

A tensor is seen as a matrix, [shape[0], the rest]; a copy takes a box of it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WRITES = {
  torch.ops.aten.fill_.Scalar,
  torch.ops.aten.fill_.Tensor,
  torch.ops.aten.zero_.default,
}


class Box(NamedTuple):
  """A part of a tensor that is seen as a matrix."""

  row: int  # the first
  column: int
  rows: int  # how many
  columns: int

  def within(self, outer: "Box") -> tuple[slice, slice]:
    """Its rows and columns in a box that has all of it."""
    row, column = self.row - outer.row, self.column - outer.column
    return slice(row, row + self.rows), slice(column, column + self.columns)

  def shared(self, other: "Box") -> "Box | None":
    """What two boxes have in common."""
    row, column = map(max, self[:2], other[:2])
    rows = min(self.row + self.rows, other.row + other.rows) - row
    right = min(self.column + self.columns, other.column + other.columns)
    found = Box(row, column, rows, right - column)
    return found if min(found[2:]) > 0 else None


Pieces = list[tuple[Box, torch.Tensor]]  # of one tensor, as files hold it


@dataclass(frozen=True)
class Place:
  """A view of a parameter, and the box of a checkpoint tensor that it takes."""

  target: torch.Tensor  # [rows, columns]
  box: Box


class _Record(TorchDispatchMode):
  """Notes copies out of `sources` and makes no write at all."""

  def __init__(self, sources: dict[str, torch.Tensor]):
    super().__init__()
    self._sources = {
      tensor.untyped_storage()._cdata: (name, tensor.shape)
      for name, tensor in sources.items()
    }
    self.places: dict[str, list[Place]] = {name: [] for name in sources}

  def __torch_dispatch__(self, func, types, args=(), kwargs=None):
    if func is torch.ops.aten.copy_.default:
      target, part = args[:2]
      source = self._sources.get(part.untyped_storage()._cdata)
      if source is None:
        raise NotImplementedError(
          "load_weights copies a tensor that it has computed; its model"
          " cannot take weights from files"
        )
      name, shape = source
      self.places[name].append(_place(name, shape, target.detach(), part))
      return target
    if func in _WRITES:  # padding rows: zero already
      return args[0]
    return func(*args, **(kwargs or {}))


def columns(shape: tuple[int, ...]) -> int:
  """Of a tensor of this shape, seen as a matrix."""
  return math.prod(shape[1:])


def _place(name: str, shape, target: torch.Tensor, part: torch.Tensor) -> Place:
  """The place of a copy of `part`, a view of a whole tensor, to `target`."""
  width = columns(shape)
  if part.dim() == 2 and part.stride() == (1, width):  # the other way round
    target, part = target.T, part.T
  size = (*part.shape[:1], 1)[0], columns(part.shape)
  row, column = divmod(part.storage_offset(), width)
  inner = torch.empty(part.shape[1:], device="meta").stride()
  in_rows = part.stride() == (width, *inner)[: part.dim()]
  if not in_rows or column + size[1] > width or target.shape != part.shape:
    raise NotImplementedError(
      f"{name}: load_weights takes a part of it that is not a box of rows and"
      " columns; its model cannot take weights from files"
    )
  return Place(target.view(size), Box(row, column, *size))


def find(
  model: torch.nn.Module, shapes: dict[str, tuple[int, ...]]
) -> dict[str, list[Place]]:
  """The places of every tensor; none for a tensor that the model skips.

  Args:
    model: a loaded vLLM model, or a rank's part of one.
    shapes: checkpoint names and shapes.

  Raises:
    NotImplementedError: a tensor is not copied as it is, in boxes.
  """
  sources = {
    name: torch.empty(shape, device="meta") for name, shape in shapes.items()
  }
  record = _Record(sources)
  with torch.no_grad(), record:
    model.load_weights(list(sources.items()))
  return record.places


def check_cover(
  boxes: Iterable[dict[str, list[Box]]], shapes: dict[str, tuple[int, ...]]
) -> None:
  """Refuses ranks that do not hold the whole of each tensor between them.

  Args:
    boxes: of each rank. Equal ones are copies: a KV head that several ranks
      have, a norm.
    shapes: of the tensors that the model has.

  Raises:
    NotImplementedError: values are missing, or lie in boxes that overlap.
  """
  boxes = list(boxes)
  for name, shape in shapes.items():
    distinct = {box for rank in boxes for box in rank[name]}
    taken = sum(box.rows * box.columns for box in distinct)
    if taken != math.prod(shape):
      raise NotImplementedError(
        f"{name}: {taken} of its {math.prod(shape)} values are loaded by"
        f" {len(boxes)} ranks; such a model cannot take weights from files"
      )


def write(places: list[Place], pieces: Pieces) -> None:
  """Puts a rank's part of a checkpoint tensor where it belongs."""
  for p in places:
    for box, piece in pieces:
      if common := p.box.shared(box):
        part = piece.reshape(box[2:])[common.within(box)]
        p.target[common.within(p.box)].copy_(part)


@dataclass(frozen=True)
class Values:
  """New single values of a place."""

  place: Place
  at: tuple[torch.Tensor, torch.Tensor]  # rows and columns in the place
  indices: torch.Tensor  # flat and row-major in the whole tensor, int64 [n]
  new: torch.Tensor  # [n]

  def old(self) -> torch.Tensor:
    """What the model holds there now."""
    return self.place.target[self.at].to(self.new)

  def write(self) -> None:
    """Raises RuntimeError if the model does not hold the values afterwards."""
    target, new = self.place.target, self.new.to(self.place.target.device)
    target[self.at] = new
    # No NaN among them, and one zero is as good as another.
    if not torch.equal(target[self.at], new):
      raise RuntimeError("the model does not hold the values written to it")


def values(
  places: list[Place], width: int, indices: torch.Tensor, new: torch.Tensor
) -> list[Values]:
  """Where single values belong; one outside of all places is another rank's.

  Args:
    places: of a tensor.
    width: the tensor's columns.
    indices: flat and row-major, int64 [n], no two equal.
    new: [n].
  """
  found, rows = [], indices // width
  columns = indices - rows * width
  for p in places:
    down, right = rows - p.box.row, columns - p.box.column
    inside = (down >= 0) & (down < p.box.rows)
    inside &= (right >= 0) & (right < p.box.columns)
    at = tuple(x[inside].to(p.target.device) for x in (down, right))
    found.append(Values(p, at, indices[inside], new[inside]))
  return found
