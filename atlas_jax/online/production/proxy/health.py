"""How the upstream and the teacher are, for who watches the proxy.

HTTP 401 or 404 to a question for the models says that a key or an address is
wrong, or that a server has no such list. The proxy is down where its upstream
is; all else that is not well degrades it.
"""

import asyncio
import time

import aiohttp

from atlas_jax.online.production.proxy.breaker import Breaker
from atlas_jax.online.production.proxy.config import ProxyConfig
from atlas_jax.online.production.proxy.endpoint import Endpoint

_KEPT_S = 1.0  # the servers are asked no more often, whoever asks


class Health:
  """For one event loop."""

  def __init__(
    self,
    config: ProxyConfig,
    upstream: Endpoint,
    teacher: Endpoint,
    breaker: Breaker,
  ):
    self._timeout_s = config.health_timeout_s
    # A client's own key is not at hand here.
    self._keyless = config.upstream.forward_authorization
    self._servers = (upstream, teacher)
    self._breaker = breaker
    self._asking = asyncio.Lock()
    self._found, self._asked_at = ["down", "down"], -_KEPT_S

  async def states(self) -> dict:
    """{"status": "ok", "degraded" or "down", and of each server}."""
    async with self._asking:
      if time.monotonic() >= self._asked_at + _KEPT_S:
        self._found = await asyncio.gather(*map(self._state, self._servers))
        self._asked_at = time.monotonic()
    upstream, teacher = self._found
    circuit = self._breaker.state
    well = upstream == teacher == "up" and circuit == "closed"
    return {
      "status": "down" if upstream == "down" else "ok" if well else "degraded",
      "upstream": {"state": upstream},
      "teacher": {"state": teacher, "circuit": circuit},
    }

  async def _state(self, server: Endpoint) -> str:
    try:
      status, _ = await server.models(self._timeout_s)
    except (aiohttp.ClientError, TimeoutError):
      return "down"
    keyless = self._keyless and server is self._servers[0]
    if status < 400 or (keyless and status in (401, 403)):
      return "up"
    return "down" if status >= 500 else f"HTTP {status}"
