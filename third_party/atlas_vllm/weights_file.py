"""Reading and checking a file of weights before a model is touched."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open


class WeightsRefused(ValueError):
  """A file that must not be loaded; the text says what is wrong with it."""


def sha256(tensor: torch.Tensor) -> str:
  """Of the bytes of `tensor` in row-major order."""
  data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
  return hashlib.sha256(data.numpy()).hexdigest()


def checksums(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
  """sha256 of each tensor, several at a time (hashlib frees the GIL)."""
  with ThreadPoolExecutor(8) as pool:
    return dict(zip(tensors, pool.map(sha256, tensors.values()), strict=True))


def inside(root: Path, path: str) -> Path:
  """`path` under `root`, links followed.

  Raises:
    WeightsRefused: it is elsewhere or is not a file.
  """
  full = (root / path).resolve()
  if not full.is_relative_to(root.resolve()):
    raise WeightsRefused(f"{path!r} is outside the weights root {root}")
  if not full.is_file():
    raise WeightsRefused(f"{path!r} is not a file under {root}")
  return full


def read(path: Path) -> dict[str, torch.Tensor]:
  """All tensors of a safetensors file, mapped into memory.

  Raises:
    WeightsRefused: it is no whole safetensors file.
  """
  try:
    with safe_open(path, framework="pt", device="cpu") as f:
      return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
  except (SafetensorError, OSError) as error:
    raise WeightsRefused(
      f"{path.name} is not a whole safetensors file: {error}"
    ) from error


def check(
  tensors: dict[str, torch.Tensor],
  shapes: dict[str, tuple[int, ...]],
  dtype: torch.dtype,
  promised: dict[str, str],
) -> None:
  """Refuses tensors that do not fit the model or are not those announced.

  Args:
    tensors: what the file holds.
    shapes: what the model takes: every name must be there, and no other.
    dtype: what the model computes in: a cast would hide a difference.
    promised: sha256 per name, from the sender.

  Raises:
    WeightsRefused: with the first few offending names.
  """
  _refuse("has tensors unknown to the model", set(tensors) - set(shapes))
  _refuse("lacks tensors of the model", set(shapes) - set(tensors))
  _refuse(
    "has tensors of a wrong shape",
    (
      f"{name} {tuple(t.shape)} instead of {shapes[name]}"
      for name, t in tensors.items()
      if tuple(t.shape) != shapes[name]
    ),
  )
  _refuse(
    f"has tensors that are not {dtype}",
    (f"{n} {t.dtype}" for n, t in tensors.items() if t.dtype != dtype),
  )
  _refuse("has no promised checksum for", set(tensors) - set(promised))
  _refuse("lacks tensors that were promised", set(promised) - set(tensors))
  _refuse(
    "has tensors that differ from their checksums",
    (n for n, found in checksums(tensors).items() if found != promised[n]),
  )
  _refuse(
    "has NaN or infinite values in",
    (name for name, t in tensors.items() if not _finite(t)),
  )


def _finite(tensor: torch.Tensor) -> bool:
  # The sum is finite unless an element is not (or the sum overflows), and
  # costs an eighth of looking at each element.
  return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def _refuse(what: str, names) -> None:
  names = sorted(names)
  if names:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise WeightsRefused(f"the file {what}: {', '.join(names[:5])}{more}")
