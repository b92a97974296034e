"""Publishing the trainer's weights to the running teacher server.

Weights travel as one safetensors file in a directory that trainer and server
share: all tensors, or the values that changed since the version that the
server holds (delta.py) where that is known and smaller. The order, so that no
half-written or foreign file is ever served:

  1. write weights-<version>.safetensors (or .delta.safetensors) under another
     name, then rename;
  2. write weights-<version>.json, the manifest, the same way;
  3. announce it with the checksums of the whole tensors; the server checks a
     copy of its own, waits for the requests under way, loads, and goes on
     (third_party/atlas_vllm). It refuses a delta of a version that it does
     not hold: then the full file is written and sent;
  4. after a full file, read back the checksums of what the server holds: they
     must be ours. For a delta the server has done so in 3: what its model
     holds, with the delta, must have our checksums before it is loaded;
  5. delete files of versions older than the last two.

With several hosts, only the lead calls `publish`.
"""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from atlas_jax.config import ServingConfig
from atlas_jax.serving import delta, weight_files
from atlas_jax.serving.client import ServerError, WeightsRefused
from atlas_jax.serving.server import TeacherServer
from atlas_jax.serving.weight_files import WeightManifest

# A delta above this part of the full bytes saves too little: applying a value
# costs more than copying one.
_DELTA_FRACTION = 0.5


@dataclass(frozen=True)
class Published:
  """What a server holds: the base of the next delta.

  The arrays are those given to `publish`, which must not change any more.
  """

  version: int
  tensors: Mapping[str, np.ndarray]
  checksums: dict[str, str]
  deltas: int  # published since the last full file


@dataclass(frozen=True)
class PublishReport:
  """What a publish did. Seconds are wall clock."""

  held: Published
  bytes: int  # of the file that the server took
  seconds_write: float  # comparing, checksums and file; a refused delta's too
  seconds_check: float  # the server's checks, while it still serves
  seconds_apply: float  # from pause to resume
  seconds_verify: float  # reading back what the server holds; 0 for a delta


class Publisher:
  """Publishes one version after the other to one server.

  A full file goes out first, after a failure, once in `config.full_every`
  versions, and always when `config.publish_changes` is off. The first says
  restart: the server may hold a newer version, of another run or of this one
  before.
  """

  def __init__(self, server: TeacherServer, config: ServingConfig):
    self._server = server
    self._config = config
    self._held: Published | None = None
    self._begun = False

  def publish(
    self, tensors: Mapping[str, np.ndarray], version: int
  ) -> PublishReport:
    """As the function `publish`."""
    base, self._held = self._held, None
    if base is not None and base.deltas + 1 >= self._config.full_every:
      base = None
    report = publish(
      tensors,
      self._server,
      version=version,
      timeout_s=self._config.request_timeout_s,
      base=base,
      restart=not self._begun,
    )
    self._begun = True
    if self._config.publish_changes:
      self._held = report.held
    return report


def publish(
  tensors: Mapping[str, np.ndarray],
  server: TeacherServer,
  *,
  version: int,
  timeout_s: float,
  base: Published | None = None,
  restart: bool = False,
) -> PublishReport:
  """Gives the teacher server new weights and makes sure that it has them.

  Args:
    tensors: all of the model's tensors, in Hugging Face names, in the dtype
      that the server runs in (config.serving.teacher.dtype).
    server: the teacher; files go to its `weights_root`.
    version: a number that grows; completions carry it from now on.
    timeout_s: for the server to finish its requests and load.
    base: what the server should hold now: a delta of it is sent if it is of an
      older version and the delta is small, and the server then agrees.
    restart: the server gives up a newer version that it may hold.

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
  if base is not None and (
    base.version >= version or base.tensors.keys() != tensors.keys()
  ):
    base = None
  begin = time.perf_counter()
  changes, sums = _compare(tensors, base)
  answer = None

  def announce(manifest: WeightManifest) -> dict:
    name, label = manifest.files[0], str(version)
    return server.update_weights(name, label, sums, timeout_s, restart)

  if base is not None and _is_small(changes, tensors):
    manifest, size = weight_files.write(
      delta.entries(changes, tensors),
      server.weights_root,
      version,
      base=base.version,
      checksums=sums,
    )
    written = time.perf_counter()
    try:
      answer = announce(manifest)
    except WeightsRefused as refusal:
      logging.warning("sending the full weights instead: %s", refusal)
      (server.weights_root / manifest.files[0]).unlink()
  if answer is None:
    manifest, size = weight_files.write(
      tensors, server.weights_root, version, checksums=sums
    )
    written = time.perf_counter()
    answer = announce(manifest)
  applied = time.perf_counter()
  is_delta = manifest.base is not None
  if not is_delta:
    verify(manifest, server)
  report = PublishReport(
    held=Published(version, tensors, sums, base.deltas + 1 if is_delta else 0),
    bytes=size,
    seconds_write=written - begin,
    seconds_check=answer["seconds_check"],
    seconds_apply=answer["seconds_apply"],
    seconds_verify=time.perf_counter() - applied,
  )
  weight_files.delete_old(server.weights_root, version)
  logging.info(
    "published weights %d: %s of %.1f MB, written in %.2f s, checked in"
    " %.2f s, applied in %.2f s, verified in %.2f s",
    version,
    "a delta" if is_delta else "a full file",
    size / 1e6,
    report.seconds_write,
    report.seconds_check,
    report.seconds_apply,
    report.seconds_verify,
  )
  return report


def _compare(
  tensors: Mapping[str, np.ndarray], base: Published | None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """(what changed since `base`, checksums), several tensors at a time."""

  def compare(name):
    if base is None:
      return None, weight_files.checksum(tensors[name])
    where = delta.changed(base.tensors[name], tensors[name])
    same = not len(where)
    return where, base.checksums[name] if same else weight_files.checksum(
      tensors[name]
    )

  with ThreadPoolExecutor(8) as pool:  # numpy and blake3 free the GIL
    found = dict(zip(tensors, pool.map(compare, tensors), strict=True))
  changes = {name: where for name, (where, _) in found.items()}
  return changes, {name: digest for name, (_, digest) in found.items()}


def _is_small(changes, tensors: Mapping[str, np.ndarray]) -> bool:
  size = sum(
    len(where) * (2 + tensors[name].itemsize) for name, where in changes.items()
  )
  return size < _DELTA_FRACTION * sum(t.nbytes for t in tensors.values())


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
