"""The files that published weights travel in."""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import numpy as np

from atlas_jax import files
from atlas_jax.model import owned, shards
from atlas_jax.serving import delta

_KEPT_VERSIONS = 2
_FILE_BYTES = 64 << 20  # of a file, or one box with all that it changes
_WRITERS = 2  # at once: each hashes with all cores
_FILE = re.compile(
  r"weights-(\d+)(?:\.\d+-\d+)?(?:\.delta)?\.(?:safetensors|json)"
)


@dataclass(frozen=True)
class WeightManifest:
  """What a version of the weights consists of."""

  version: int
  base: int | None  # the version that the files are a delta of; None: all
  files: dict[str, str]  # name where the manifest lies -> BLAKE3 of the file
  checksums: dict[str, str]  # of the whole tensors


@dataclass(frozen=True)
class WrittenFile:
  name: str
  digest: str  # BLAKE3
  bytes: int
  delivered: Any


def write(
  entries: Iterable[tuple[str, np.ndarray]],
  directory: Path,
  version: int,
  deliver: Callable[[str, str], Any] = lambda name, digest: None,
  *,
  base: int | None = None,
  process: int = 0,
) -> list[WrittenFile]:
  """Writes a process's files, one at least.

  Some at a time, while the next entries are made.

  Args:
    entries: of all files; they are let go file by file.
    directory: made if it is not there.
    version: of the weights.
    deliver: called with name and BLAKE3 of each file, in its thread.
    base: the version that `entries` are a delta of; None: they are whole.
    process: its number.
  """
  kind, metadata = "", {}
  if base is not None:
    kind = ".delta"
    metadata = {
      "format": delta.FORMAT,
      "base": str(base),
      "version": str(version),
    }

  def write_one(numbered) -> WrittenFile:
    number, held = numbered
    which = f".{process}-{number}" if process or number else ""
    name = f"weights-{version:08d}{which}{kind}.safetensors"
    digest, size = _write_file(directory / name, held, metadata)
    return WrittenFile(name, digest, size, deliver(name, digest))

  return list(in_threads(write_one, enumerate(_by_file(entries)), _WRITERS))


def in_threads(call, items: Iterable, threads: int = 8) -> Iterator:
  """call(item) of each in order, some ahead: numpy and files free the GIL."""
  with ThreadPoolExecutor(threads) as pool:
    begun = (pool.submit(call, item) for item in items)
    yield from map(Future.result, owned.ahead(begun, threads))


def _by_file(entries) -> Iterator[dict[str, np.ndarray]]:
  """The entries of each file; of the first there may be none."""
  held, size, count = {}, 0, 0
  for name, tensor in entries:
    held[name], size = tensor, size + tensor.nbytes
    # Both entries of a delta's box stay in one file.
    if size >= _FILE_BYTES and not name.endswith(".values"):
      yield held
      held, size, count = {}, 0, count + 1
  if held or not count:
    yield held


def write_manifest(manifest: WeightManifest, directory: Path) -> None:
  with files.replacing(directory / f"weights-{manifest.version:08d}.json") as f:
    f.write(json.dumps(dataclasses.asdict(manifest), indent=1).encode())


def _write_file(
  path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> tuple[str, int]:
  """Streams tensors to a safetensors file; (its BLAKE3, its bytes)."""
  # Wide ones first: each then starts at a multiple of its item size.
  order = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
  named = [(name, tensor.dtype, tensor.shape) for name, tensor in order]
  head = shards.head(named, metadata)
  digest = blake3.blake3(max_threads=blake3.blake3.AUTO)
  with files.replacing(path) as f:
    data = (np.ascontiguousarray(tensor) for _, tensor in order)
    bits = (tensor.reshape(-1).view(np.uint8) for tensor in data)
    for part in itertools.chain([head], bits):
      digest.update(part)
      f.write(part)
  return digest.hexdigest(), len(head) + sum(t.nbytes for _, t in order)


def delete_old(directory: Path, version: int) -> None:
  """Deletes all but the newest versions up to `version`, and stray parts.

  Several processes may do so at the same time.
  """
  found: dict[int, list[Path]] = {}
  for path in list(directory.iterdir()):
    if path.suffix == ".partial":  # a run was killed while it wrote
      path.unlink(missing_ok=True)
    match = _FILE.fullmatch(path.name)
    if match and int(match[1]) <= version:
      found.setdefault(int(match[1]), []).append(path)
  for old in sorted(found)[:-_KEPT_VERSIONS]:
    for path in found[old]:
      path.unlink(missing_ok=True)
