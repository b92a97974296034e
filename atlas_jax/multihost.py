"""Several processes, one run: started, and sent what the lead knows.

Everything here is a collective: every process calls it, in the same order.
With one process nothing is sent and nothing is compiled.
"""

import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from atlas_jax import stopping
from atlas_jax.errors import AtlasError

log = logging.getLogger(__name__)

# Until JAX counts a process as dead. By its own 100 one that was killed is
# found after 98 s; at 10 there was no false alarm.
HEARTBEAT_S = 30
SHARED_S = 30  # until all see a file; NFS looks anew after so long


class LeadError(AtlasError):
  """The lead process failed; every process raises this with its text."""


class HostsError(AtlasError):
  """The hosts do not fit together; the text says which and how."""


def initialize(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  *,
  timeout_s: int = 300,
  local_device_ids: list[int] | None = None,
) -> None:
  """Joins the processes of this run; call it before any other use of JAX.

  All three None: found from the cluster (TPU pods, SLURM). Otherwise
  coordinator is HOST:PORT of process 0. On CPU the collectives go over gloo.
  local_device_ids: [] are all that are visible, None what JAX takes: under
  SLURM one of them.
  """
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  # It would take SIGTERM, and ignore it until stopping.py takes it back.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    coordinator_address=coordinator,
    num_processes=num_processes,
    process_id=process_id,
    local_device_ids=local_device_ids,
    initialization_timeout=timeout_s,
    heartbeat_timeout_seconds=HEARTBEAT_S,
  )


def number() -> int:
  """Of this process, from 0 on."""
  return jax.process_index()


def is_lead() -> bool:
  """Whether this process talks HTTP and writes files."""
  return jax.process_index() == 0


def gather(x: np.ndarray) -> np.ndarray:
  """[...] of each process -> [processes, ...] on every process."""
  return np.asarray(multihost_utils.process_allgather(x))


def check_devices() -> None:
  """Refuses processes with different numbers of devices.

  Call it before all else: nothing is sent over such devices.
  """
  owners = [device.process_index for device in jax.devices()]
  counts = [owners.count(i) for i in range(jax.process_count())]
  log.info("process %d of %d", jax.process_index(), jax.process_count())
  if len(set(counts)) > 1:
    found = ", ".join(f"process {i}: {n}" for i, n in enumerate(counts))
    raise HostsError(f"all processes must have as many devices: {found}")


def check_shared(folder: epath.Path) -> None:
  """Refuses a directory that not all processes see. A collective.

  Orbax would wait for the files of the others without an error.
  """
  if jax.process_count() == 1:
    return

  def write():
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seen").write_text(secrets.token_hex(8))

  call_on_lead(write)
  wait_until_seen(folder, (folder / "seen").read_text)


def wait_until_seen(folder: epath.Path, look: Callable[[], Any]) -> None:
  """Waits until all see in `folder` what the lead sees. A collective.

  Raises:
    HostsError: some do not, SHARED_S later; the text names them.
  """
  if jax.process_count() == 1:
    return
  wanted, place = call_on_lead(lambda: (look(), str(folder)))
  end, seen = time.monotonic() + SHARED_S, False
  while not seen and time.monotonic() < end:
    with contextlib.suppress(Exception):  # of whatever library knows a URL
      seen = look() == wanted
    time.sleep(0 if seen else 0.5)
  if blind := np.flatnonzero(~gather(np.array(seen))).tolist():
    raise HostsError(
      f"of {jax.process_count()} processes these do not see what"
      f" the lead sees in {place}: {blind}; --workdir, or"
      " config.checkpoints_dir, must be on a disk that all hosts share"
    )


def broadcast_json(value: Any) -> Any:
  """The lead's JSON value, on every process; other processes' are ignored.

  With several processes it went through JSON: tuples come back as lists.
  """
  several = jax.process_count() > 1
  return call_on_lead(lambda: value, hold=True) if several else value


def call_on_lead(function: Callable[[], Any], hold: bool = False) -> Any:
  """`function()` of the lead alone; its JSON value on every process.

  With `hold` a signal waits where it waits outside; else it ends what runs.

  Raises:
    LeadError: on the others when it failed. The lead raises what it raised,
      after all know: nobody is left waiting in a collective.
    Stopped: on all, when a signal to the lead ended it.
  """
  if jax.process_count() == 1:
    with stopping.held(hold):
      return function()
  message, error = _outcome(function, hold) if is_lead() else (b"", None)
  length = np.array(len(message), np.int32)
  length = int(multihost_utils.broadcast_one_to_all(length))
  sent = multihost_utils.broadcast_one_to_all(_padded(message, length))
  return _value(np.asarray(sent)[:length], "the lead process", LeadError, error)


def call_on_all(function: Callable[[], Any], hold: bool = False) -> list[Any]:
  """`function()` of each process; all JSON values, by process, on each.

  It must hold no collective. With `hold` as in `call_on_lead`.

  Raises:
    HostsError: it failed elsewhere; where it failed, what it raised.
    Stopped: on all, when a signal to one ended it.
  """
  if jax.process_count() == 1:
    with stopping.held(hold):
      return [function()]
  message, error = _outcome(function, hold)
  lengths = gather(np.array(len(message), np.int32))
  sent = gather(_padded(message, int(lengths.max())))
  return [
    _value(data[:length], f"process {i}", HostsError, error)
    for i, (data, length) in enumerate(zip(sent, lengths, strict=True))
  ]


def on_each(function: Callable[[], Any]) -> Any:
  """What `function()` gives here, once it has given something everywhere.

  As `call_on_all`, for what is no JSON and not sent.
  """
  found = []
  call_on_all(lambda: found.append(function()))
  return found[0]


def on_lead(function: Callable[[], Any], hold: bool = False) -> Any:
  """What `function()` gives on the lead; None on the others.

  As `call_on_lead`, for what is no JSON and not sent.
  """
  found = []
  call_on_lead(lambda: found.append(function()), hold)
  return found[0] if found else None


def _padded(message: bytes, length: int) -> np.ndarray:
  """Of a power of two above the length: few shapes, so few compilations."""
  padded = np.zeros(1 << max(length - 1, 63).bit_length(), np.uint8)
  padded[: len(message)] = np.frombuffer(message, np.uint8)
  return padded


def _outcome(function, hold: bool) -> tuple[bytes, BaseException | None]:
  """(what became of a call, as JSON, what it raised)."""
  error = None
  try:
    with stopping.held(hold):
      outcome = json.dumps({"value": function()})
  except stopping.Stopped as e:
    outcome, error = json.dumps({"stopped": e.number}), e
  except Exception as e:
    outcome, error = json.dumps({"error": f"{type(e).__name__}: {e}"}), e
  return outcome.encode(), error


def _value(data: np.ndarray, who: str, kind: type, error: BaseException | None):
  """The value of a call of `who`; `error` is what it raised here."""
  if error is not None:
    raise error
  outcome = json.loads(data.astype(np.uint8).tobytes())
  if "stopped" in outcome:
    raise stopping.Stopped(outcome["stopped"])
  if "error" in outcome:
    raise kind(f"{who} failed: {outcome['error']}")
  return outcome["value"]


def stop_asked() -> stopping.Stopped | None:
  """What to raise once all is saved, if a signal came to any process."""
  number = int(gather(np.array(stopping.asked(), np.int32)).max())
  return stopping.Stopped(number) if number else None
