"""Whole runs of `tiny_road` as processes: started, watched, stopped.

Servers take longest to start, so that runs share a pair of them by its URLs;
they come and go, and a run that was killed finds the servers again.
"""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable

from atlas_jax import metrics
from atlas_jax.serving.supervisor import descendants
from tests import forked, processes
from tests.phases import tiny_road

SFT_STEPS = tiny_road.CHANGES["sft.steps"]


def config_flags(model: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  return [
    "--config=configs/quickstart.py",
    f"--workdir={workdir}",
    f"--config.teacher.path={model}",
    f"--config.student.path={model}",
    *(f"--config.{key}={value}" for key, value in tiny_road.CHANGES.items()),
  ]


class SharedServers:
  """`launchers.serve`, and the runs that use its servers one after the other.

  Attributes:
    urls: flags of a run.
    key: the servers' bearer token.
  """

  def __init__(self, workdir: pathlib.Path, flags):
    self.log = pathlib.Path(f"{workdir}.log")
    self._weights = workdir / "weights"
    with open(self.log, "wb") as out:
      self.process = forked.Process(
        *("launchers.serve", *flags),
        stdout=out,
        stderr=subprocess.STDOUT,
        servers=True,
      )
    self.urls, self.key = [], ""

  def wait(self) -> None:
    """Until both servers are healthy."""
    wait_for(
      lambda: "config.serving.student.url=" in self.log.read_text(),
      self.process,
    )
    said = self.log.read_text()
    self.urls = re.findall(r"--config\.serving\.\w+\.url=\S+", said)
    self.key = re.search(r"export ATLAS_SERVER_KEY=(\S+)", said)[1]

  def url(self, role: str) -> str:
    (flag,) = [x for x in self.urls if f".{role}.url=" in x]
    return flag.partition("=")[2]

  def lend(self, workdir: pathlib.Path) -> None:
    """From now on the teacher reads the weights of this run."""
    weights = workdir / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    if not self._weights.is_symlink():
      self._weights.rmdir()
    link = self._weights.with_name("next")
    link.symlink_to(weights)
    link.replace(self._weights)

  def end(self) -> None:
    """Ctrl-C, which ends both servers."""
    servers = descendants(self.process.pid)
    self.process.send_signal(signal.SIGINT)
    assert self.process.wait(60) == 0, self.log.read_text()[-4000:]
    assert processes.all_end(servers)


@dataclasses.dataclass
class Road:
  """Runs the launchers with the configuration of `tiny_road`."""

  model: pathlib.Path
  servers: SharedServers

  def start(
    self,
    workdir: pathlib.Path,
    *flags: str,
    own_servers: bool = False,
    servers_forked: bool = True,
  ) -> forked.Process:
    """The run in the background, what it says in workdir.log."""
    if not own_servers:
      self.servers.lend(workdir)
      flags = (*self.servers.urls, *flags)
    with open(f"{workdir}.log", "ab") as out:
      return forked.Process(
        "launchers.train",
        *config_flags(self.model, workdir),
        *flags,
        stdout=out,
        stderr=subprocess.STDOUT,
        env={**os.environ, "ATLAS_SERVER_KEY": self.servers.key},
        servers=own_servers and servers_forked,
      )

  def finish(
    self, workdir: pathlib.Path, *flags: str, own_servers: bool = False
  ) -> str:
    """The run to its end; what it said."""
    process = self.start(workdir, *flags, own_servers=own_servers)
    assert process.wait(600) == 0, log_of(workdir)[-6000:]
    return log_of(workdir)


# What a run has written.


def log_of(workdir: pathlib.Path) -> str:
  return pathlib.Path(f"{workdir}.log").read_text(errors="replace")


def numbers(workdir: pathlib.Path) -> list[dict]:
  """metrics.jsonl without what a clock or a restart makes different."""
  ends = tiny_road.NOT_REPRODUCED
  return [
    {k: v for k, v in line.items() if not k.endswith(ends)}
    for line in metrics.lines(workdir / "metrics.jsonl")
  ]


def episodes(workdir: pathlib.Path) -> list[dict]:
  """All training episodes, without their clocks."""
  (path,) = (workdir / "episodes").glob("?_grpo.jsonl")
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  return [{k: v for k, v in x.items() if k != "seconds"} for x in lines]


def in_grpo(line: dict) -> bool:
  return line["phase"].endswith("_grpo")


def grpo_steps(workdir: pathlib.Path) -> list[int]:
  """Steps of GRPO that metrics.jsonl knows."""
  if not (workdir / "metrics.jsonl").exists():
    return []
  return [x["step"] for x in numbers(workdir) if in_grpo(x)]


def step_of_episodes(workdir: pathlib.Path) -> int:
  """The last step whose episodes are written."""
  path = workdir / "episodes" / "1_grpo.jsonl"
  if not path.exists() or not path.read_text().endswith("\n"):
    return 0
  return json.loads(path.read_text().splitlines()[-1])["step"]


# Places in a run, by their names; the last checkpoint before is of step 2.
PLACES: dict[str, Callable[[pathlib.Path], bool]] = {
  # of step 3: its episodes are written, its update is not logged
  "training": lambda workdir: step_of_episodes(workdir) == 3,
  # after step 3: the file is there, the server may or may not have it
  "publishing": lambda workdir: any(
    (workdir / "weights").glob(f"*{SFT_STEPS + 3:08d}*")
  ),
  # of step 4: step 3 is done
  "sampling": lambda workdir: grpo_steps(workdir)[-1:] == [3],
}


def wait_for(condition, process, seconds=300) -> None:
  """Until the condition holds, in a process that has not ended."""
  end = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, f"ended with {process.returncode}"
    assert time.monotonic() < end, "it never came to that"
    time.sleep(0.01)


def stop(process: forked.Process, number: signal.Signals, status: int):
  """Sends a signal to a run; whatever it started ends with it."""
  below = descendants(process.pid)
  process.send_signal(number)
  assert process.wait(120) == status
  assert processes.all_end(below, 15)


def server_of(process: forked.Process, role: str) -> int:
  """The pid of a server's API process among those below a run."""
  for pid in descendants(process.pid):
    try:
      words = re.split(
        "[\0 ]", pathlib.Path(f"/proc/{pid}/cmdline").read_text()
      )
    except OSError:
      continue
    if "vllm.entrypoints.openai.api_server" in words and role in words:
      return pid
  raise AssertionError(f"no {role} server below {process.pid}")
