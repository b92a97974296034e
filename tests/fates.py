"""Processes that one event ends: how soon, and what the log of each says.

  python -m tests.fates --processes=4 --directory=/tmp/fates "kill 0" "term all"

One process imports JAX once and forks all others, those of several events at
one time. They are started as a launcher starts them; what they train is a
stand-in, an array to which each step adds one, on all of their devices. Prints
a table, or with --json=FILE writes what a test reads.
"""

import argparse
import functools
import json
import os
import pathlib
import re
import signal
import socket
import sys
import time
import traceback

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from atlas_jax import fate, multihost, sharding, stopping
from atlas_jax.checkpoint import Checkpoints
from atlas_jax.config import MeshConfig
from launchers import common

# Imported before the processes part, so that each has them.
_PRELOADED = fate, ocp, multihost_utils
SIGNALS = {
  "kill": signal.SIGKILL,
  "freeze": signal.SIGSTOP,
  "term": signal.SIGTERM,
}
# What is done, and to which process. Those that a heartbeat ends come first.
EVENTS = ("freeze 0", "freeze 1", "kill 1", "raise 0", "raise 1")
EVENTS += ("kill 0", "term 0", "term 1", "term all")
# How it goes on after some of them: on so many processes, with another mesh.
AFTER = {"term all": (1, {}), "term 1": (2, {"fsdp": 1, "tensor": -1})}
# A cause, and what else a log has for whoever looks for one.
_SAYS = re.compile(
  r"error: .*|OSError: .*|[^.]*leader task was preempted|process 0 does not .*|"
  r"The following tasks are unhealthy[^:]*:\s*\S+|SAVED \d+|RESUMED .*"
)
_START = np.arange(64, dtype=np.float32).reshape(8, 8)


def train(folder: pathlib.Path, mesh: dict[str, int], kind: str) -> None:
  """Steps without an end; of kind `again` the one after those of before."""
  mesh = sharding.make_mesh(MeshConfig(**mesh))
  layout = jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
  add = jax.jit(lambda x: x + 1 + 0 * x.sum())  # a collective
  with (
    stopping.listening(),
    stopping.held(),
    jax.set_mesh(mesh),
    Checkpoints(folder) as saved,
  ):
    x = jax.make_array_from_callback(
      _START.shape, layout, lambda at: _START[at]
    )
    if kind == "again":
      step, trees, _ = saved.restore({"state": {"x": x}})
      x = add(trees["state"]["x"])
      wanted = _START + step + 1
      for shard in x.addressable_shards:
        np.testing.assert_array_equal(shard.data, wanted[shard.index])
      print(f"RESUMED {step} on {jax.device_count()}", flush=True)
      return
    for step in range(1, 1_000_000):
      x = jax.block_until_ready(add(x))
      if step == 3:
        print("READY", flush=True)
        if kind == "raise":
          raise OSError("disk full")
      if (stopped := multihost.stop_asked()) is not None:
        saved.save(step, {"state": {"x": x}}, {})
        print(f"SAVED {step}", flush=True)
        raise stopped
      time.sleep(0.02)


def start(main, log: pathlib.Path, flags: list[str], heartbeat_s: int) -> int:
  """The number of a new process that runs main() as a launcher does."""
  if pid := os.fork():
    return pid
  status = 1
  try:
    os.setsid()  # the end of a shell lets go on who is frozen in its session
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
      os.dup2(out, descriptor)
    multihost.HEARTBEAT_S = heartbeat_s
    sys.argv = ["fates", *flags]
    common.launch(main)
  except SystemExit as end:
    status = end.code
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    os._exit(status or 0)


class Group:
  """The processes of one event."""

  def __init__(
    self,
    event: str,
    count: int,
    folder: pathlib.Path,
    mesh: dict[str, int],
    heartbeat_s: int,
  ):
    self.event, self.ended, self.sent = event, {}, None
    self._began = time.monotonic()
    kind, *_, target = event.split()
    self._signal = SIGNALS.get(kind)
    everybody = range(count)
    self._targets = everybody if target == "all" else [int(target)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    flags = []
    if count > 1:
      with socket.create_server(("127.0.0.1", 0)) as s:
        flags = [f"--coordinator=127.0.0.1:{s.getsockname()[1]}"]
      flags.append(f"--num_processes={count}")
    self.logs, self.pids = [], []
    for rank in everybody:
      own = [f"--process_id={rank}"] if flags else []
      what = "train" if kind == "raise" and rank not in self._targets else kind
      # Named like a launcher's, whose flags --help would list.
      main = functools.partial(train, folder, mesh, what)
      main.__module__ = __name__
      self.logs.append(folder.parent / f"{folder.name}_{rank}.log")
      self.logs[-1].write_bytes(b"")
      self.pids.append(start(main, self.logs[-1], flags + own, heartbeat_s))

  def look(self) -> bool:
    """Sends the signal once all train; whether all have ended."""
    for rank, pid in enumerate(self.pids):
      if rank not in self.ended:
        number, status = os.waitpid(pid, os.WNOHANG)
        if number:
          self.ended[rank] = os.waitstatus_to_exitcode(status), time.monotonic()
    if self.sent is None and all("READY\n" in x.read_text() for x in self.logs):
      self.sent = time.monotonic()
      for rank in self._targets if self._signal else ():
        os.kill(self.pids[rank], self._signal)
    left = set(range(len(self.pids))) - self.ended.keys()
    # A process that is frozen cannot end itself.
    if self._signal == signal.SIGSTOP and left <= {*self._targets}:
      self.kill()
      return True
    return not left

  def kill(self) -> None:
    for rank, pid in enumerate(self.pids):
      if rank not in self.ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.ended[rank] = None, time.monotonic()

  def result(self) -> dict:
    """What there is to say of each process; no status: it was ended here."""
    said = [log.read_text(errors="replace") for log in self.logs]
    of = [
      {
        "status": self.ended[rank][0],
        "seconds": round(self.ended[rank][1] - (self.sent or self._began), 1),
        "says": [" ".join(x.split()) for x in _SAYS.findall(text)],
        "tail": text[-3000:],
      }
      for rank, text in enumerate(said)
    ]
    return {"event": self.event, "processes": of}


def run(groups: list[Group], seconds: float) -> list[dict]:
  """What became of each, all watched until they have ended."""
  end, left = time.monotonic() + seconds, list(groups)
  try:
    while left and time.monotonic() < end:
      left = [group for group in left if not group.look()]
      time.sleep(0.02)
  finally:
    for group in left:
      group.kill()
  return [group.result() for group in groups]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--heartbeat_s", type=int, default=multihost.HEARTBEAT_S)
  parser.add_argument("--directory", type=pathlib.Path, required=True)
  parser.add_argument("--limit_s", type=float, default=240)
  parser.add_argument("--at_once", type=int, default=len(EVENTS))
  parser.add_argument("--json", type=pathlib.Path)
  parser.add_argument("events", nargs="*", default=EVENTS)
  given = parser.parse_args()

  def ended(events: dict[str, tuple[str, int, dict]]) -> list[dict]:
    groups = [
      Group(event, count, given.directory / folder, mesh, given.heartbeat_s)
      for event, (folder, count, mesh) in events.items()
    ]
    return run(groups, given.limit_s)

  found = []
  for i in range(0, len(given.events), given.at_once):
    chosen = given.events[i : i + given.at_once]
    found += ended({e: (e, given.processes, {}) for e in chosen})
  after = {e: how for e, how in AFTER.items() if e in given.events}
  found += ended({f"again {e}": (e, *how) for e, how in after.items()})
  if given.json:
    given.json.write_text(json.dumps(found))
    return
  for result in found:
    for rank, of in enumerate(result["processes"]):
      print(
        f"{result['event']:10} process {rank} of {len(result['processes'])}:"
        f" {of['seconds']} s, status {of['status']}: {of['says']}"
      )


if __name__ == "__main__":
  main()
