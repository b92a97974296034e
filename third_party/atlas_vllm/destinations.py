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

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WRITES = {
  torch.ops.aten.fill_.Scalar,
  torch.ops.aten.fill_.Tensor,
  torch.ops.aten.zero_.default,
}

# Of a tensor seen as a matrix: first row and column, rows and columns.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Place:
  """A view of a parameter, and the box of a checkpoint tensor that it takes."""

  target: torch.Tensor  # [rows, columns]
  box: Box

  @property
  def part(self) -> tuple[slice, slice]:
    row, column, rows, columns = self.box
    return slice(row, row + rows), slice(column, column + columns)


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
  return Place(target.view(size), (row, column, *size))


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
    taken = sum(rows * width for _, _, rows, width in distinct)
    if taken != math.prod(shape):
      raise NotImplementedError(
        f"{name}: {taken} of its {math.prod(shape)} values are loaded by"
        f" {len(boxes)} ranks; such a model cannot take weights from files"
      )


def write(places: list[Place], tensor: torch.Tensor) -> None:
  """Puts a rank's part of a checkpoint tensor where it belongs."""
  matrix = tensor.reshape(-1, columns(tensor.shape))
  for p in places:
    p.target.copy_(matrix[p.part])


def read(
  places: list[Place], shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
  """The checkpoint tensor that the model holds now, on the CPU."""
  out = torch.empty(shape, dtype=dtype)
  matrix = out.view(-1, columns(shape))
  for p in places:
    matrix[p.part] = p.target.cpu()
  return out


def within(
  place: Place, width: int, indices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
  """(which of `indices` lie in a place, their rows and columns there).

  Args:
    place: of a part of a tensor.
    width: the tensor's columns.
    indices: flat and row-major in the whole tensor, int64 [n].
  """
  row, column, rows, across = place.box
  rows_at = indices // width - row
  columns_at = indices % width - column
  inside = (rows_at >= 0) & (rows_at < rows)
  inside &= (columns_at >= 0) & (columns_at < across)
  at = place.target.device
  return inside, rows_at[inside].to(at), columns_at[inside].to(at)


def write_at(
  places: list[Place],
  shape: tuple[int, ...],
  indices: torch.Tensor,
  values: torch.Tensor,
) -> None:
  """Puts single values of a checkpoint tensor where they belong.

  A value outside of all places belongs to another rank.

  Args:
    places: of the tensor.
    shape: of the tensor.
    indices: flat and row-major, int64 [n], no two equal.
    values: [n].

  Raises:
    RuntimeError: the model does not hold the values afterwards.
  """
  for p in places:
    inside, *at = within(p, columns(shape), indices)
    own = values[inside].to(p.target.device)
    p.target[*at] = own
    # No NaN among them, and one zero is as good as another.
    if not torch.equal(p.target[*at], own):
      raise RuntimeError("the model does not hold the values written to it")
