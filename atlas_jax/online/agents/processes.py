"""Ending a process together with everything that it started."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys

from atlas_jax.online.agents import group_killer

_REAP_S = 5.0


class Groups:
  """Processes that lead their groups, and do not outlive this process.

  Where this process is killed (kill -9), group_killer.py kills the groups.
  """

  def __init__(self):
    self._killer: subprocess.Popen | None = None

  async def start(self, *argv: str, **how) -> asyncio.subprocess.Process:
    """As asyncio.create_subprocess_exec.

    Raises:
      OSError, ValueError: it does not start.
    """
    if self._killer is None:
      self._killer = subprocess.Popen(
        [sys.executable, "-I", "-S", group_killer.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        # Ctrl-C, or the end of the owner's group, is not its end.
        start_new_session=True,
      )
    process = await asyncio.create_subprocess_exec(
      *argv, start_new_session=True, **how
    )
    self._tell(f"+{process.pid}")
    return process

  def forget(self, process: asyncio.subprocess.Process) -> None:
    """It ended: its number may be another's."""
    self._tell(f"-{process.pid}")

  async def kill(self, process: asyncio.subprocess.Process) -> None:
    """Kills a process that was started here, and all of its group.

    Returns when the process is gone; one of its descendants that left the
    group and keeps a pipe open is not waited for long.
    """
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    self.forget(process)
    await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=_REAP_S)

  async def aclose(self) -> None:
    killer, self._killer = self._killer, None
    if killer is not None:
      killer.stdin.close()
      await asyncio.to_thread(killer.wait)

  def _tell(self, line: str) -> None:
    if self._killer is not None:
      with contextlib.suppress(BrokenPipeError):
        self._killer.stdin.write(f"{line}\n".encode())
