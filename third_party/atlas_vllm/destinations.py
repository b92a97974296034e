"""Where each tensor of a checkpoint lies in a running vLLM model.

vLLM fuses tensors (q, k and v into one; gate and up into one) and pads the
vocabulary, and only a model's own `load_weights` knows how. So we call it once
with meta tensors, which have a shape and no data, and write down the copies
that it wants to make instead of making them. The answer serves both ways:
loading a tensor is the copies; reading back what the model holds is the
copies reversed.
"""

import math
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WRITES = {
  torch.ops.aten.fill_.Scalar,
  torch.ops.aten.fill_.Tensor,
  torch.ops.aten.zero_.default,
}


@dataclass(frozen=True)
class Place:
  """A view of a parameter, and the part of a checkpoint tensor it takes."""

  target: torch.Tensor
  size: tuple[int, ...]
  stride: tuple[int, ...]
  offset: int


class _Record(TorchDispatchMode):
  """Notes copies out of `sources` and makes no write at all."""

  def __init__(self, sources: dict[str, torch.Tensor]):
    super().__init__()
    self._names = {
      tensor.untyped_storage()._cdata: name for name, tensor in sources.items()
    }
    self.places: dict[str, list[Place]] = {name: [] for name in sources}

  def __torch_dispatch__(self, func, types, args=(), kwargs=None):
    if func is torch.ops.aten.copy_.default:
      target, source = args[:2]
      name = self._names.get(source.untyped_storage()._cdata)
      if name is None:
        raise NotImplementedError(
          "load_weights copies a tensor that it has computed; its model"
          " cannot take weights from files"
        )
      self.places[name].append(
        Place(
          target.detach(),
          tuple(source.shape),
          source.stride(),
          source.storage_offset(),
        )
      )
      return target
    if func in _WRITES:  # padding rows: zero already
      return args[0]
    return func(*args, **(kwargs or {}))


def find(
  model: torch.nn.Module, shapes: dict[str, tuple[int, ...]]
) -> dict[str, list[Place]]:
  """The places of every tensor; none for a tensor that the model skips.

  Args:
    model: a loaded vLLM model.
    shapes: checkpoint names and shapes.

  Raises:
    NotImplementedError: a tensor is not copied as it is, whole, once.
  """
  sources = {
    name: torch.empty(shape, device="meta") for name, shape in shapes.items()
  }
  record = _Record(sources)
  with torch.no_grad(), record:
    model.load_weights(list(sources.items()))
  for name, places in record.places.items():
    taken = sum(math.prod(place.size) for place in places)
    if places and taken != math.prod(shapes[name]):
      raise NotImplementedError(
        f"{name}: {taken} of its {math.prod(shapes[name])} values are"
        " loaded here; a model split over several devices (tensor or"
        " pipeline parallel) cannot take weights from files yet"
      )
  return record.places


def write(places: list[Place], tensor: torch.Tensor) -> None:
  """Puts a checkpoint tensor where it belongs."""
  tensor = tensor.contiguous()
  for p in places:
    p.target.copy_(tensor.as_strided(p.size, p.stride, p.offset))


def read(
  places: list[Place], shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
  """The checkpoint tensor that the model holds now, on the CPU."""
  out = torch.empty(shape, dtype=dtype)
  for p in places:
    out.as_strided(p.size, p.stride, p.offset).copy_(p.target)
  return out


def read_at(
  places: list[Place],
  shape: tuple[int, ...],
  indices: torch.Tensor,
  dtype: torch.dtype,
) -> torch.Tensor:
  """The values at flat indices of the tensor that the model holds now."""
  flat = _flat(places, shape)
  if flat is None:  # it lies in parts
    flat = read(places, shape, dtype).view(-1)
  return flat[indices.to(flat.device)].cpu()


def write_at(
  places: list[Place],
  shape: tuple[int, ...],
  indices: torch.Tensor,
  values: torch.Tensor,
) -> None:
  """Puts single values of a checkpoint tensor where they belong.

  Args:
    places: of the tensor.
    shape: of the tensor.
    indices: flat and row-major, int64 [n], no two equal.
    values: [n].

  Raises:
    RuntimeError: the model does not hold the values afterwards.
  """
  flat = _flat(places, shape)
  if flat is None:  # it lies in parts
    tensor = read(places, shape, values.dtype)
    tensor.view(-1)[indices] = values
    write(places, tensor)
    return
  indices, values = indices.to(flat.device), values.to(flat.device)
  flat[indices] = values
  # No NaN among them, and one zero is as good as another.
  if not torch.equal(flat[indices], values):
    raise RuntimeError("the model does not hold the values written to it")


def _flat(places: list[Place], shape: tuple[int, ...]) -> torch.Tensor | None:
  """The one view that holds the whole tensor in row order, if there is one."""
  if len(places) != 1:
    return None
  (p,) = places
  whole = torch.empty(shape, device="meta")
  part = whole.as_strided(p.size, p.stride, p.offset)
  in_order = part.is_contiguous() and part.numel() == whole.numel()
  if not (in_order and p.offset == 0 and p.target.is_contiguous()):
    return None
  return p.target.view(-1)
