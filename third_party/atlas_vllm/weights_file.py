"""Reading and checking a file of weights before a model is touched."""

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blake3
import torch
from safetensors import SafetensorError, safe_open

_CHUNK = 1 << 20  # stays in the cache on its way
_LONGEST_TEXT = 1000


class InvalidWeights(ValueError):
  """A file that must not be loaded; the text says what is wrong with it."""

  def __init__(self, text: str):
    super().__init__(one_line(text))


def one_line(text: str) -> str:
  """A text with a stranger's words in it, fit for logs and terminals."""
  text = text[:_LONGEST_TEXT]
  return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


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
  """Of a file: a delta of every value with its gap, and a header."""
  values = sum(map(math.prod, shapes.values()))
  return (dtype.itemsize + 2) * values + 1000 * len(shapes) + (1 << 20)


def read(
  path: Path, most: int
) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
  """(metadata, tensors) of a safetensors file, in memory of our own.

  So what is checked is what is loaded, whatever becomes of the file.

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
      # What a file cut short by now lacks stays zero: its checksums differ.
      for at in range(0, size, _CHUNK):
        part = os.pread(source.fileno(), min(_CHUNK, size - at), at)
        os.pwrite(copy.fileno(), part, at)
      name = f"/proc/self/fd/{copy.fileno()}"
      with safe_open(name, framework="pt", device="cpu") as f:
        tensors = {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118
        return f.metadata() or {}, tensors
  except (SafetensorError, OSError, RuntimeError) as error:
    raise InvalidWeights(
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
    InvalidWeights: with the first few offending names.
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
  """Raises InvalidWeights if there are names, with the first few."""
  names = sorted(names)
  if names:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise InvalidWeights(f"the file {what}: {', '.join(names[:5])}{more}")
