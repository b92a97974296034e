"""The files that published weights travel in."""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import blake3
import numpy as np

from atlas_jax import files
from atlas_jax.serving import delta

_DTYPES = {"float32": "F32", "bfloat16": "BF16", "uint16": "U16"}
_KEPT_VERSIONS = 2
_FILE_BYTES = 256 << 20  # of a file, or one box with all that it changes
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


def write(
  entries: Iterable[tuple[str, np.ndarray]],
  directory: Path,
  version: int,
  *,
  base: int | None = None,
  process: int = 0,
) -> tuple[dict[str, str], int]:
  """Writes a process's files, one at least; ({name: BLAKE3}, bytes).

  Args:
    entries: of all files; they are let go file by file.
    directory: made if it is not there.
    version: of the weights.
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
  made, total = {}, 0
  for held in _by_file(entries):
    if held or not made:
      which = f".{process}-{len(made)}" if process or made else ""
      name = f"weights-{version:08d}{which}{kind}.safetensors"
      made[name], size = _write_file(directory / name, held, metadata)
      total += size
  return made, total


def _by_file(entries) -> Iterator[dict[str, np.ndarray]]:
  """The entries of each file; the last may have none."""
  held, size = {}, 0
  for name, tensor in entries:
    held[name], size = tensor, size + tensor.nbytes
    # Both entries of a delta's box stay in one file.
    if size >= _FILE_BYTES and not name.endswith(".values"):
      yield held
      held, size = {}, 0
  yield held


def write_manifest(manifest: WeightManifest, directory: Path) -> None:
  with files.replacing(directory / f"weights-{manifest.version:08d}.json") as f:
    f.write(json.dumps(dataclasses.asdict(manifest), indent=1).encode())


def _bytes(tensor: np.ndarray) -> memoryview:
  return memoryview(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))


def _write_file(
  path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> tuple[str, int]:
  """Streams tensors to a file; (its BLAKE3, its bytes).

  The format is safetensors', by its README; its own writer would hold a second
  copy of the tensors.
  """
  # Wide ones first: each then starts at a multiple of its item size.
  order = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
  header, end = {"__metadata__": metadata} if metadata else {}, 0
  for name, tensor in order:
    begin, end = end, end + tensor.nbytes
    header[name] = {
      "dtype": _DTYPES[tensor.dtype.name],
      "shape": list(tensor.shape),
      "data_offsets": [begin, end],
    }
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)  # data starts aligned
  start = len(text).to_bytes(8, "little") + text
  digest = blake3.blake3(max_threads=blake3.blake3.AUTO)
  with files.replacing(path) as f:
    data = (_bytes(tensor) for _, tensor in order)
    for part in itertools.chain([start], data):
      digest.update(part)
      f.write(part)
  return digest.hexdigest(), 8 + len(text) + end


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
