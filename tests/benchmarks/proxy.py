"""What the proxy adds to a request, at servers that answer at once.

  python -m tests.benchmarks.proxy --requests=500 --clients=8

The proxy is a process of its own, the upstream and the teacher are stubs in
another. Three ways are timed: the upstream asked directly, through the proxy
untaught (n=2 passes through), and taught. A taught request makes three calls,
so its floor is three times the direct one. cpu_ms is what the proxy's process
computes for a request (Linux): on a busy machine it says more than wall time.
"""

import argparse
import asyncio
import json
import pathlib
import socket
import subprocess
import sys
import time

import aiohttp
import numpy as np

_TEACHING = "<teaching>count twice</teaching>"


def _stub() -> tuple[subprocess.Popen, str]:
  process = subprocess.Popen(
    [sys.executable, "-m", "tests.online.stub_server", _TEACHING],
    stdout=subprocess.PIPE,
    text=True,
  )
  return process, process.stdout.readline().strip()


def _proxy(stub: str) -> tuple[subprocess.Popen, str]:
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "launchers.proxy", "--config=configs/proxy.py"),
      f"--config.port={port}",
      f"--config.upstream.url={stub}/v1",
      f"--config.teacher.url={stub}/v1",
      "--config.teacher.model=stub",
    ],
    stderr=subprocess.DEVNULL,
  )
  return process, f"http://127.0.0.1:{port}"


async def _wait_for(session, url: str) -> None:
  while True:
    try:
      async with session.get(f"{url}/health"):
        return
    except aiohttp.ClientError:
      await asyncio.sleep(0.2)


async def _time(session, url: str, how: str | None, count, clients, **extra):
  """Milliseconds of each request."""
  message = {"role": "user", "content": "1+1?"}
  body = {"model": "stub", "messages": [message], **extra}
  slots, out = asyncio.Semaphore(clients), []

  async def one():
    async with slots:
      start = time.perf_counter()
      async with session.post(f"{url}/v1/chat/completions", json=body) as r:
        await r.read()
        if r.status != 200 or r.headers.get("x-atlas-teaching") != how:
          raise RuntimeError(f"{r.status} {r.headers}")
      out.append(1e3 * (time.perf_counter() - start))

  await asyncio.gather(*(one() for _ in range(clients)))  # warms up
  out.clear()
  await asyncio.gather(*(one() for _ in range(count)))
  return out


def _cpu_ms(process: subprocess.Popen) -> float:
  """Milliseconds that the main thread of a process has computed."""
  path = pathlib.Path(f"/proc/{process.pid}/schedstat")
  return int(path.read_text().split()[0]) / 1e6 if path.exists() else 0.0


async def _run(stub: str, proxy, url: str, count: int, clients: int) -> dict:
  async with aiohttp.ClientSession() as session:
    await _wait_for(session, url)
    ways = {
      "direct": (stub, None, {}),
      "passed_through": (url, "passed_through", {"n": 2}),
      "taught": (url, "taught", {}),
    }
    table = {}
    for name, (server, how, extra) in ways.items():
      before = _cpu_ms(proxy)
      ms = await _time(session, server, how, count, clients, **extra)
      cpu_ms = (_cpu_ms(proxy) - before) / (count + clients)
      table[name] = {
        f"p{q}_ms": round(float(np.percentile(ms, q)), 2) for q in (50, 99)
      } | {"cpu_ms": round(cpu_ms, 3)}
  return table


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--requests", type=int, default=500)
  parser.add_argument("--clients", type=int, default=1)
  arguments = parser.parse_args()
  processes = []
  try:
    process, stub = _stub()
    processes.append(process)
    proxy, url = _proxy(stub)
    processes.append(proxy)
    table = asyncio.run(
      _run(stub, proxy, url, arguments.requests, arguments.clients)
    )
  finally:
    for process in processes:
      process.kill()
      process.wait()
  print(json.dumps({**vars(arguments), **table}, indent=2))


if __name__ == "__main__":
  main()
