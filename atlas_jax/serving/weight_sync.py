"""The trainer's weights on their way to the running teacher server.

Every process compares, writes and hashes its own boxes of the tensors
(model/owned.py), one after the other; none holds the model. Files lie in a
directory that trainer and server share, or go there by HTTP (weight_roads.py),
and hold all values, or those that changed since the version that the server
holds (delta.py) where that is known and smaller. The order, so that no
half-written or foreign file is ever served:

  1. each process writes weights-<version>[.<process>-<n>][.delta].safetensors
     under other names, then renames;
  2. the lead writes weights-<version>.json, the manifest, the same way: the
     BLAKE3 of each file, the checksum of each whole tensor, which is the sum
     of all processes' parts;
  3. it announces both; the server checks copies of its own, waits for the
     requests under way, loads, and goes on (third_party/atlas_vllm). It
     refuses a delta of a version that it does not hold: then the full files
     are written and sent. It answers once it holds what was announced, by the
     checksums: after full files it reads all back; a delta is checked at the
     cost of what changed, from checksums that are held and values that change;
  4. delete files of versions older than the last two.

Full files go out first, after a failure, once in `config.full_every` versions
(the audit of all values), and always when `config.publish_changes` is off.
"""

import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from atlas_jax import multihost
from atlas_jax.config import ServingConfig
from atlas_jax.model.owned import Owned
from atlas_jax.serving import delta, weight_files, weight_roads
from atlas_jax.serving.http import ServerDown, ServerError, WeightsRefused
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
  bytes: int  # of the files that the server took
  seconds_write: float  # from the devices to files; a refused delta's too
  seconds_check: float  # the server's checks, while it still serves
  seconds_apply: float  # from pause to resume

  @property
  def seconds(self) -> float:
    return self.seconds_write + self.seconds_check + self.seconds_apply


class WeightSender:
  """Sends one version of the weights after the other to the servers.

  Every process has one, and enters `send`. Files go to the server's
  `weights_root`; the lead alone sends requests. The first version may be older
  than what the server holds, of another run or of this one before.

  Attributes:
    holds: the version that each server took last, on the lead; None: unknown,
      since it did not answer. One that is behind gets full files once it is
      healthy again.
  """

  def __init__(
    self, server: TeacherServer, config: ServingConfig, *others: TeacherServer
  ):
    for one in (server, *others):
      if not isinstance(one, TeacherServer):
        raise TypeError(f"weights go to a TeacherServer, not {type(one)}")
    self._server, self._config = server, config  # all have its directory
    self._servers = server, *others
    self.holds = dict.fromkeys(self._servers)
    self._roads = [weight_roads.Road(one, config) for one in self._servers]
    # What the server holds, the base of the next delta: its version, and this
    # process's boxes. None: the next files are full ones.
    self._held_version: int | None = None
    self._held_boxes: dict[str, np.ndarray] = {}
    self._sums: dict[str, list[int]] = {}  # of this process's boxes
    self._deltas = 0  # since the last full files

  def send(
    self, tensors: Iterable[Owned], version: int, hold: bool = False
  ) -> Sent:
    """Gives the servers new weights and makes sure that they have them.

    One that is down is left out while another takes them; see `holds`.
    A collective. With `hold` a signal waits for the end of a step.

    Args:
      tensors: this process's part of all of the model's, in the dtype that the
        server runs in. They must not change any more.
      version: completions carry it from now on. One that is smaller than the
        last begins anew: of another teacher's weights, or the run's own again.

    Raises:
      ServerError: refused (the old weights serve on), or the server holds
        something else afterwards.
      ServerDown: no answer.
      ValueError: a tensor is of another dtype than the server's.
    """
    begin = time.perf_counter()
    base, self._held_version = self._base(version), None
    if version in self.holds.values():  # again, since one may have lost it
      self.holds = dict.fromkeys(self.holds)
    entries, sent = self._compared(tensors, base), None
    if base is not None:
      sent = self._send(entries, version, base, begin, hold)
      entries = self._held_boxes.items()
    sent = sent or self._send(entries, version, None, begin, hold)
    root = self._server.weights_root  # perhaps of this host alone
    multihost.call_on_all(lambda: weight_files.delete_old(root, version), hold)
    # Full files to one that needed them are no audit of the others.
    self._deltas = 0 if base is None else self._deltas + 1
    if self._config.publish_changes:
      self._held_version = version
    else:
      self._held_boxes = {}
    log.debug("sent weights %d: %s", version, sent)
    return sent

  def _base(self, version: int) -> int | None:
    """The version of which a delta may go out; None: full files must."""
    grows = self._held_version is not None and self._held_version < version
    due = self._deltas + 1 >= self._config.full_every
    return self._held_version if grows and not due else None

  def _receivers(self, version: int, base: int | None, hold: bool) -> list[int]:
    """Numbers of the servers that a delta, or full files, are for."""

    def is_meant(server: TeacherServer) -> bool:
      if base is not None:
        return self.holds[server] == base
      late, several = self.holds[server] != version, len(self._servers) > 1
      return late and (not several or server.healthy())

    def found():
      return [i for i, s in enumerate(self._servers) if is_meant(s)]

    return multihost.call_on_lead(found, hold)

  def _compared(self, tensors: Iterable[Owned], base: int | None) -> Iterator:
    """What files hold: all boxes, or what changed in them since the base.

    Each box takes the place of the one before.
    """
    before, self._held_boxes, self._sums = self._held_boxes, {}, {}
    if base is None:
      before = {}

    def boxes():
      for tensor in tensors:
        self._sums[tensor.name] = tensor.sums.tolist()
        for name, box in tensor.boxes.items():
          if box.dtype.name != self._server.dtype:
            raise ValueError(
              f"{name} is {box.dtype.name}, and the teacher server runs in"
              f" {self._server.dtype}"
            )
          self._held_boxes[name] = box
          yield name, before.pop(name, None), box

    def entries(of: tuple) -> list:
      name, _, box = of
      return [(name, box)] if base is None else list(delta.entries(*of))

    found = weight_files.in_threads(entries, boxes())
    return itertools.chain.from_iterable(found)

  def _send(self, entries, version, base, begin, hold: bool) -> Sent | None:
    """Writes files and has the servers load them.

    None: a delta was too large or was refused, or a server is back that does
    not hold its base; so full files are wanted.
    """
    to = self._receivers(version, base, hold)
    parts = multihost.call_on_all(
      lambda: self._write(entries, version, base, to), hold
    )
    size, whole = (sum(p[key] for p in parts) for key in ("bytes", "whole"))
    written, answer = time.perf_counter(), None
    if base is None or size < _DELTA_FRACTION * whole:
      answer = self._announce(parts, version, base, to, hold)
    if answer is None:
      multihost.call_on_all(lambda: self._delete(parts), hold)
      return None
    return Sent(base is not None, size, written - begin, **answer)

  def _write(self, entries, version: int, base: int | None, to) -> dict:
    """This process's files, brought to each server while more are written.

    A file goes to all servers side by side.
    """
    root, down = self._server.weights_root, {}  # number -> why

    def deliver(name: str, digest: str) -> dict[int, str | None]:
      def one(number: int) -> str | None:
        try:
          return self._roads[number].deliver(root / name, digest)
        except ServerDown as error:
          down[number] = str(error)
          return None

      up = [number for number in to if number not in down]
      with ThreadPoolExecutor(len(self._servers)) as pool:
        return dict(zip(up, pool.map(one, up), strict=True))

    mine = multihost.number()
    files = weight_files.write(
      entries, root, version, deliver, base=base, process=mine
    )

    def announced(number: int) -> dict[str, str] | str:
      if number in down:
        return down[number]
      return {file.delivered[number]: file.digest for file in files}

    return {
      "sums": self._sums,
      "whole": sum(box.nbytes for box in self._held_boxes.values()),
      "bytes": sum(file.bytes for file in files),
      "files": {file.name: file.digest for file in files},
      "sent": [announced(number) for number in to],
    }

  def _announce(self, parts, version: int, base, to, hold: bool) -> dict | None:
    """The slowest answer; None: full files are wanted. Who is down is left out.

    All are asked at one time.
    """
    sums = _add_up(part["sums"] for part in parts)
    files = {k: v for part in parts for k, v in part["files"].items()}
    manifest = WeightManifest(version, base, files, sums)

    def one(turn: int) -> dict | ServerError:
      server = self._servers[to[turn]]
      held, sent = self.holds[server], [part["sent"][turn] for part in parts]
      try:
        for why in sent:
          if isinstance(why, str):
            raise ServerDown(why)
        answer = server.update_weights(
          {path: digest for own in sent for path, digest in own.items()},
          str(version),
          sums,
          self._config.request_timeout_s,
          restart=held is None or version < held,
        )
      except WeightsRefused as refusal:
        if base is None:
          raise
        log.warning("sending the full weights instead: %s", refusal)
        return refusal
      except ServerDown as error:
        log.warning("a server is without weights %d: %s", version, error)
        self.holds[server] = None
        return error
      self.holds[server] = version
      return {key: answer[key] for key in ("seconds_check", "seconds_apply")}

    def announce():
      weight_files.write_manifest(manifest, self._server.weights_root)
      with ThreadPoolExecutor(len(self._servers)) as pool:
        answers = list(pool.map(one, range(len(to))))
      took = [answer for answer in answers if isinstance(answer, dict)]
      late = [s for i, s in enumerate(self._servers) if i not in to]
      if base is not None and (
        any(isinstance(answer, WeightsRefused) for answer in answers)
        or any(server.healthy() for server in late)
      ):
        return None
      # Where another took the delta, only who did not is left out.
      if not took and version not in self.holds.values():
        raise next(iter(answers), ServerDown("no teacher server is healthy"))
      none = {"seconds_check": 0.0, "seconds_apply": 0.0}
      return max(took, key=lambda one: one["seconds_apply"], default=none)

    return multihost.call_on_lead(announce, hold)

  def _delete(self, parts) -> None:
    for name in parts[multihost.number()]["files"]:
      (self._server.weights_root / name).unlink()


def _add_up(parts: Iterable[dict[str, list[int]]]) -> dict[str, str]:
  """The checksum of each tensor from the sums of all processes."""
  totals: dict[str, np.ndarray] = {}
  for part in parts:
    for name, sums in part.items():
      own = np.array(sums, np.uint32)
      totals[name] = totals[name] + own if name in totals else own
  return {n: f"{int(a):08x}{int(b):08x}" for n, (a, b) in totals.items()}
