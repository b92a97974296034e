"""Reading and checking a file of weights before a model is touched."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blake3
import torch
from safetensors import SafetensorError, safe_open


class WeightsRefused(ValueError):
  """A file that must not be loaded; the text says what is wrong with it."""


def digest(tensor: torch.Tensor) -> str:
  """BLAKE3 of the bytes of `tensor` in row-major order."""
  data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
  return blake3.blake3(data.numpy()).hexdigest()


def digests(
  names: Iterable[str], tensor: Callable[[str], torch.Tensor]
) -> dict[str, str]:
  """The digest of `tensor(name)` for each name, several at a time."""
  names = list(names)
  with ThreadPoolExecutor(8) as pool:  # torch and blake3 free the GIL
    found = pool.map(lambda name: digest(tensor(name)), names)
    return dict(zip(names, found, strict=True))


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


def read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
  """(metadata, tensors mapped into memory) of a safetensors file.

  Raises:
    WeightsRefused: it is no whole safetensors file.
  """
  try:
    with safe_open(path, framework="pt", device="cpu") as f:
      tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
      return f.metadata() or {}, tensors
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
    promised: the digest of each, from the sender.

  Raises:
    WeightsRefused: with the first few offending names.
  """
  refuse("has tensors unknown to the model", set(tensors) - set(shapes))
  refuse("lacks tensors of the model", set(shapes) - set(tensors))
  refuse(
    "has tensors of a wrong shape",
    (
      f"{name} {tuple(t.shape)} instead of {shapes[name]}"
      for name, t in tensors.items()
      if tuple(t.shape) != shapes[name]
    ),
  )
  refuse(
    f"has tensors that are not {dtype}",
    (f"{n} {t.dtype}" for n, t in tensors.items() if t.dtype != dtype),
  )
  check_promises(set(tensors), promised)
  compare(digests(tensors, tensors.__getitem__), promised)
  refuse(
    "has NaN or infinite values in",
    (name for name, t in tensors.items() if not finite(t)),
  )


def check_promises(names: set[str], promised: dict[str, str]) -> None:
  """Refuses an update unless each tensor and no other has a checksum."""
  refuse("has no promised checksum for", names - set(promised))
  refuse("lacks tensors that were promised", set(promised) - names)


def compare(found: dict[str, str], promised: dict[str, str]) -> None:
  """Refuses tensors whose digests are not those promised."""
  refuse(
    "has tensors that differ from their checksums",
    (name for name, digest in found.items() if digest != promised[name]),
  )


def finite(tensor: torch.Tensor) -> bool:
  """False if an element is NaN or infinite."""
  # The sum is finite unless an element is not (or the sum overflows), and
  # costs an eighth of looking at each element.
  return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def refuse(what: str, names: Iterable[str]) -> None:
  """Raises WeightsRefused if there are names, with the first few."""
  names = sorted(names)
  if names:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise WeightsRefused(f"the file {what}: {', '.join(names[:5])}{more}")
