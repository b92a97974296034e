"""Ending a process together with everything that it started."""

import asyncio
import contextlib
import os
import signal

_REAP_S = 5.0


async def kill_group(process: asyncio.subprocess.Process) -> None:
  """Kills a process that leads its group, and all of the group.

  Returns when the process is gone; one of its descendants that left the group
  and keeps a pipe open is not waited for long.
  """
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=_REAP_S)
