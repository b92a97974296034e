"""The flags of several processes that train together."""

import contextlib
import logging
import os
import socket
import sys
import threading

from absl import flags

_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  None,
  "HOST:PORT of process 0 when several processes train together; on TPU"
  " pods and under SLURM 'auto' finds it.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is.")
_TIMEOUT = flags.DEFINE_integer(
  "coordinator_timeout_s", 300, "Until all processes must have met.", 1
)
# How many processes a launcher of clusters started, by its own account.
_TASKS = (
  *("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
  *("JAX_NUM_PROCESSES", "WORLD_SIZE"),
)


@contextlib.contextmanager
def joined():
  """Inside, the processes are one run where --coordinator names one.

  Raises:
    IllegalFlagValueError: they cannot train together as the flags say.
  """
  given = _NUM_PROCESSES.value, _PROCESS_ID.value
  value, seconds = _COORDINATOR.value, _TIMEOUT.value
  if value is None:
    if given != (None, None):
      raise flags.IllegalFlagValueError(
        "--num_processes and --process_id need --coordinator: HOST:PORT of"
        " process 0, or auto"
      )
    for name, count in _started().items():
      logging.warning(
        "%s=%s, and without --coordinator=auto or HOST:PORT each process"
        " trains alone",
        *(name, count),
      )
    yield
    return
  # Brings JAX, which the online half does without.
  from jax._src import distributed

  from atlas_jax import fate, multihost

  timer = threading.Timer(seconds, _end_late, (value, seconds))
  timer.daemon = True
  address = None if value == "auto" else value
  try:
    if address is not None:
      if None in given or not 0 <= given[1] < given[0]:
        raise ValueError("needs --num_processes=N and --process_id of 0 to N-1")
      host, _, port = address.rpartition(":")
      socket.getaddrinfo(host, int(port))
    timer.start()
    multihost.initialize(
      *(address, *given),
      timeout_s=seconds + 60,
      local_device_ids=_local_devices(),
    )
    for name, count in _started().items():
      if count != str(joined := distributed.global_state.num_processes):
        raise ValueError(f"{joined} processes, but {name}={count}")
  except (RuntimeError, ValueError, OSError) as error:
    hint = "" if address else "; auto finds TPU pods and SLURM"
    raise flags.IllegalFlagValueError(
      f"--coordinator={value}: {' '.join(str(error).split())}{hint}"
    ) from None
  finally:
    timer.cancel()
  with fate.shared():
    yield


def _started() -> dict[str, str]:
  """Variable -> processes, where a launcher of clusters started several."""
  counts = {name: os.environ.get(name, "1") for name in _TASKS}
  pod = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
  slices = int(os.environ.get("MEGASCALE_NUM_SLICES") or 1)
  counts["TPU_WORKER_HOSTNAMES"] = str(len(pod) * slices)
  return {name: count for name, count in counts.items() if count != "1"}


def _local_devices() -> list[int] | None:
  """[]: all that are visible; None: JAX decides.

  Under SLURM JAX takes one device a task, also where a task has a whole node.

  Raises:
    ValueError: devices would be left out.
  """
  names = "SLURM_NTASKS", "SLURM_STEP_NUM_NODES"
  tasks, nodes = (int(os.environ.get(name, "0")) for name in names)
  if "JAX_LOCAL_DEVICE_IDS" in os.environ or not tasks or not nodes:
    return None
  if tasks == nodes:
    return []
  seen = len(os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))
  if seen > 1 and tasks < nodes * seen:
    raise ValueError(
      f"SLURM started {tasks} tasks on {nodes} nodes, and each would take one"
      f" of the {seen} GPUs that it sees: start one task a node, or one a GPU"
    )
  return None


def _end_late(address: str, seconds: int) -> None:
  """Ends this process, since JAX would abort without saying who is missing."""
  print(
    f"error: --coordinator={address}: not all processes met there within"
    f" {seconds} s; was each started, and can it reach process 0?",
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)
