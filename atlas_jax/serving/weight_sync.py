"""Publishing the trainer's weights to the running teacher server.

Weights travel as one safetensors file in a directory that trainer and server
share. The order, so that no half-written or foreign file is ever served:

  1. write weights-<version>.safetensors under another name, then rename;
  2. write weights-<version>.json, the manifest, the same way;
  3. announce it; the server checks all of it, waits for the requests under
     way, loads, and goes on (third_party/atlas_vllm);
  4. read back the checksums of what the server holds: they must be ours;
  5. delete files of versions older than the last two.

With several hosts, only the lead calls `publish`.
"""

import dataclasses
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlas_jax.serving.client import ServerError
from atlas_jax.serving.server import TeacherServer

_DTYPES = {"float32": "F32", "bfloat16": "BF16"}
_KEPT_VERSIONS = 2
_FILE = re.compile(r"weights-(\d+)\.(safetensors|json)")


@dataclass(frozen=True)
class WeightManifest:
  """What a version of the weights consists of."""

  version: int
  files: tuple[str, ...]  # names in the directory of the manifest
  checksums: dict[str, str]  # tensor name -> sha256 of its bytes


@dataclass(frozen=True)
class PublishReport:
  """What a publish did. Seconds are wall clock."""

  version: int
  bytes: int
  seconds_write: float  # checksums and file
  seconds_check: float  # the server's checks, while it still serves
  seconds_apply: float  # from pause to resume
  seconds_verify: float  # reading back what the server holds
  checksums: dict[str, str]


def publish(
  tensors: Mapping[str, np.ndarray],
  server: TeacherServer,
  *,
  version: int,
  timeout_s: float,
) -> PublishReport:
  """Gives the teacher server new weights and makes sure that it has them.

  Args:
    tensors: all of the model's tensors, in Hugging Face names, in the dtype
      that the server runs in (config.serving.teacher.dtype).
    server: the teacher; files go to its `weights_root`.
    version: a number that grows; completions carry it from now on.
    timeout_s: for the server to finish its requests and load.

  Raises:
    ServerError: refused (the old weights serve on), or the server holds
      something else afterwards.
    ServerDown: no answer.
    TypeError: `server` is no TeacherServer: a student's weights are frozen.
    ValueError: a tensor is of another dtype than the server's.
  """
  if not isinstance(server, TeacherServer):
    raise TypeError(f"weights go to a TeacherServer, not {type(server)}")
  for name, tensor in tensors.items():
    if tensor.dtype.name != server.dtype:
      raise ValueError(
        f"{name} is {tensor.dtype.name}, and the teacher server runs in"
        f" {server.dtype}"
      )
  begin = time.perf_counter()
  manifest, size = write(tensors, server.weights_root, version)
  written = time.perf_counter()
  answer = server.update_weights(
    manifest.files[0], str(version), manifest.checksums, timeout_s
  )
  applied = time.perf_counter()
  verify(manifest, server)
  report = PublishReport(
    version=version,
    bytes=size,
    seconds_write=written - begin,
    seconds_check=answer["seconds_check"],
    seconds_apply=answer["seconds_apply"],
    seconds_verify=time.perf_counter() - applied,
    checksums=manifest.checksums,
  )
  _delete_old(server.weights_root, version)
  logging.info(
    "published weights %d: %.1f MB, written in %.2f s, checked in %.2f s,"
    " applied in %.2f s, verified in %.2f s",
    version,
    size / 1e6,
    report.seconds_write,
    report.seconds_check,
    report.seconds_apply,
    report.seconds_verify,
  )
  return report


def verify(manifest: WeightManifest, server: TeacherServer) -> None:
  """Compares what the server holds with a manifest, tensor by tensor.

  Raises:
    ServerError: version or checksums differ.
  """
  held = server.held_weights()
  if held["version"] != str(manifest.version):
    raise ServerError(
      f"the teacher server holds version {held['version']}, not"
      f" {manifest.version}"
    )
  ours, theirs = manifest.checksums, held["checksums"]
  different = sorted(
    name
    for name in ours.keys() | theirs.keys()
    if ours.get(name) != theirs.get(name)
  )
  if different:
    raise ServerError(
      f"the teacher server holds other weights than the trainer in"
      f" {len(different)} of {len(ours)} tensors, such as {different[0]}"
    )


def write(
  tensors: Mapping[str, np.ndarray], directory: Path, version: int
) -> tuple[WeightManifest, int]:
  """Writes the file and the manifest; returns it and the file's bytes."""
  directory.mkdir(parents=True, exist_ok=True)
  name = f"weights-{version:08d}.safetensors"
  with ThreadPoolExecutor(8) as pool:  # hashlib frees the GIL
    sums = dict(zip(tensors, pool.map(checksum, tensors.values()), strict=True))
  size = _write_safetensors(directory / name, tensors)
  manifest = WeightManifest(version, (name,), sums)
  path = directory / f"weights-{version:08d}.json"
  partial = path.with_suffix(".json.partial")
  partial.write_text(json.dumps(dataclasses.asdict(manifest), indent=1))
  os.replace(partial, path)
  return manifest, size


def _bytes(tensor: np.ndarray) -> memoryview:
  return memoryview(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))


def checksum(tensor: np.ndarray) -> str:
  """sha256 of the bytes of `tensor` in row-major order."""
  return hashlib.sha256(_bytes(tensor)).hexdigest()


def _write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> int:
  """Streams tensors to a file; the format is safetensors', by its README.

  safetensors' own writer would hold a second copy of all the weights.
  """
  header, end = {}, 0
  for name, tensor in tensors.items():
    begin, end = end, end + tensor.nbytes
    header[name] = {
      "dtype": _DTYPES[tensor.dtype.name],
      "shape": list(tensor.shape),
      "data_offsets": [begin, end],
    }
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)  # data starts aligned
  partial = path.with_suffix(".safetensors.partial")
  with partial.open("wb") as f:
    f.write(len(text).to_bytes(8, "little"))
    f.write(text)
    for tensor in tensors.values():
      f.write(_bytes(tensor))
  os.replace(partial, path)
  return 8 + len(text) + end


def _delete_old(directory: Path, version: int) -> None:
  """Deletes all but the newest versions up to `version`, and stray parts."""
  found: dict[int, list[Path]] = {}
  for path in list(directory.iterdir()):
    if path.suffix == ".partial":  # a run was killed while it wrote
      path.unlink()
    match = _FILE.fullmatch(path.name)
    if match and int(match[1]) <= version:
      found.setdefault(int(match[1]), []).append(path)
  for old in sorted(found)[:-_KEPT_VERSIONS]:
    for path in found[old]:
      path.unlink()
