"""The trainer's weights on their way to the running teacher server.

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

A full file goes out first, after a failure, once in `config.full_every`
versions, and always when `config.publish_changes` is off.
"""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from atlas_jax.config import ServingConfig
from atlas_jax.serving import delta, weight_files
from atlas_jax.serving.client import ServerError, WeightsRefused
from atlas_jax.serving.server import TeacherServer
from atlas_jax.serving.weight_files import WeightManifest

# A delta above this part of the full bytes saves too little: applying a value
# costs more than copying one.
_DELTA_FRACTION = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sent:
  """What sending a version took. Seconds are wall clock."""

  is_delta: bool
  checksums: dict[str, str] = field(repr=False)  # of the whole tensors
  bytes: int  # of the file that the server took
  seconds_write: float  # comparing, checksums and file; a refused delta's too
  seconds_check: float  # the server's checks, while it still serves
  seconds_apply: float  # from pause to resume
  seconds_verify: float  # reading back what the server holds; 0 for a delta

  @property
  def seconds(self) -> float:
    return (
      self.seconds_write
      + self.seconds_check
      + self.seconds_apply
      + self.seconds_verify
    )


class WeightSender:
  """Sends one version of the weights after the other to one server.

  Files go to the server's `weights_root`. The first version may be older than
  what the server holds, of another run or of this one before. With several
  hosts, only the lead has one.
  """

  def __init__(self, server: TeacherServer, config: ServingConfig):
    if not isinstance(server, TeacherServer):
      raise TypeError(f"weights go to a TeacherServer, not {type(server)}")
    self._server, self._config = server, config
    self._sent: int | None = None  # the version that was sent last
    # What the server holds, the base of the next delta: version, tensors,
    # checksums. None: the next file is a full one.
    self._held: tuple[int, Mapping, dict[str, str]] | None = None
    self._deltas = 0  # since the last full file

  def send(self, tensors: Mapping[str, np.ndarray], version: int) -> Sent:
    """Gives the server new weights and makes sure that it has them.

    Args:
      tensors: all of the model's, in Hugging Face names, in the dtype that the
        server runs in. They must not change any more.
      version: completions carry it from now on. One that is smaller than the
        last begins anew: of another teacher's weights, or the run's own again.

    Raises:
      ServerError: refused (the old weights serve on), or the server holds
        something else afterwards.
      ServerDown: no answer.
      ValueError: a tensor is of another dtype than the server's.
    """
    server = self._server
    for name, tensor in tensors.items():
      if tensor.dtype.name != server.dtype:
        raise ValueError(
          f"{name} is {tensor.dtype.name}, and the teacher server runs in"
          f" {server.dtype}"
        )
    begin = time.perf_counter()
    base, self._held = self._base(tensors, version), None
    changes, sums = _compare(tensors, base)
    sent = None
    if base is not None and _is_small(changes, tensors):
      entries = delta.entries(changes, tensors)
      try:
        sent = self._write_and_announce(entries, version, sums, base[0])
      except WeightsRefused as refusal:
        log.warning("sending the full weights instead: %s", refusal)
    is_delta = sent is not None
    manifest, size, written, answer = sent or self._write_and_announce(
      tensors, version, sums, None
    )
    applied = time.perf_counter()
    if not is_delta:
      verify(manifest, server)
    took = Sent(
      is_delta=is_delta,
      checksums=sums,
      bytes=size,
      seconds_write=written - begin,
      seconds_check=answer["seconds_check"],
      seconds_apply=answer["seconds_apply"],
      seconds_verify=time.perf_counter() - applied,
    )
    self._sent, self._deltas = version, self._deltas + 1 if is_delta else 0
    self._held = (
      (version, tensors, sums) if self._config.publish_changes else None
    )
    weight_files.delete_old(server.weights_root, version)
    log.debug("sent weights %d: %s", version, took)
    return took

  def _base(self, tensors, version: int):
    """What a delta may start from; None: the next file is a full one."""
    held, c = self._held, self._config
    grows = held is not None and held[0] < version
    if not grows or self._deltas + 1 >= c.full_every:
      return None
    return held if held[1].keys() == tensors.keys() else None

  def _write_and_announce(self, entries, version: int, sums, base: int | None):
    """(manifest, bytes, the time when they were written, server's answer)."""
    root = self._server.weights_root
    manifest, size = weight_files.write(
      entries, root, version, checksums=sums, base=base
    )
    written, name = time.perf_counter(), manifest.files[0]
    try:
      answer = self._server.update_weights(
        *(name, str(version), sums, self._config.request_timeout_s),
        restart=self._sent is None or version < self._sent,
      )
    except WeightsRefused:
      (root / name).unlink()
      raise
    return manifest, size, written, answer


def _compare(
  tensors: Mapping[str, np.ndarray], base: tuple | None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """(what changed since `base`, checksums), several tensors at a time."""
  _, before, sums = base or (None, None, None)

  def compare(name):
    if base is None:
      return None, weight_files.checksum(tensors[name])
    where = delta.changed(before[name], tensors[name])
    same = not len(where)
    return where, sums[name] if same else weight_files.checksum(tensors[name])

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
