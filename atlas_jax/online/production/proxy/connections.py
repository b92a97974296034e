"""Who is connected to the proxy, for how long, and what is logged of it.

1. max_connections at most: one more ends the oldest one that asks nothing,
   or is itself closed where all are being answered;
2. who sends no whole head of a request in idle_timeout_s is closed, and who
   takes nothing of an answer in write_timeout_s (where the system has
   TCP_USER_TIMEOUT: Linux), which ends the upstream's work too;
3. the process may open as many files as the system allows;
4. of a record of the web framework its kind is logged, once a minute: its
   words repeat what was sent, keys and questions among it.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections.abc import AsyncIterator

from aiohttp import web

from atlas_jax.online.production.proxy.config import ProxyConfig

_LIBRARIES = ("server", "web", "client", "internal", "access", "websocket")
_LOGGERS = ("asyncio", *(f"aiohttp.{name}" for name in _LIBRARIES))
_AGAIN_S = 60.0
# The rest of a refused body is thrown away for so long: a client that is
# still sending when the connection closes never reads why.
_LINGER_S = 1.0

# The connections whose requests are being answered: the handlers keep it.
BUSY = web.AppKey("busy", set)


class _Wordless(logging.Filter):
  """Leaves of a record its kind, and of each kind one a minute."""

  def __init__(self):
    super().__init__()
    self._next: dict[str, float] = {}

  def filter(self, record: logging.LogRecord) -> bool:
    error = (record.exc_info or (None,))[0]
    kind = record.levelname if error is None else error.__name__
    now = time.monotonic()
    if now < self._next.get(f"{record.name} {kind}", now):
      return False
    self._next[f"{record.name} {kind}"] = now + _AGAIN_S
    record.msg, record.args = f"{kind} (logged once a minute)", ()
    record.exc_info = record.exc_text = record.stack_info = None
    return True


class _NoRoom(asyncio.Protocol):
  def connection_made(self, transport) -> None:
    transport.abort()


def reserve_files() -> None:
  """Lets this process open as many files as the system allows it."""
  _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.asynccontextmanager
async def listening(
  app: web.Application, config: ProxyConfig
) -> AsyncIterator[asyncio.Server]:
  """Serves the application while it is entered.

  Handlers are cancelled when their client goes away, and bodies come as they
  are sent: compressed ones are not inflated.
  """

  def connect():
    """The protocol of a new connection."""
    connections = runner.server.connections
    if len(connections) >= config.max_connections:
      busy = app[BUSY]
      idle = (c for c in connections if c.connected and c not in busy)
      oldest = next(idle, None)
      if oldest is None:
        return _NoRoom()
      oldest.force_close()
    return runner.server()

  wordless, most = _Wordless(), int(1000 * config.write_timeout_s)
  for name in _LOGGERS:
    logging.getLogger(name).addFilter(wordless)
  runner = web.AppRunner(
    app,
    access_log=None,
    auto_decompress=False,
    handler_cancellation=True,
    keepalive_timeout=config.idle_timeout_s,
    lingering_time=_LINGER_S,
    shutdown_timeout=config.drain_s,
  )
  try:
    await runner.setup()
    door = await asyncio.get_running_loop().create_server(
      connect, config.host, config.port, start_serving=False
    )
    with contextlib.closing(door):
      for listener in door.sockets:
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # for all that it accepts
          listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, most)
      await door.start_serving()
      yield door
  finally:
    await runner.cleanup()
    for name in _LOGGERS:
      logging.getLogger(name).removeFilter(wordless)
