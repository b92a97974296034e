"""The road on which files of weights come to a server.

  files  trainer and server share the directory: nothing is left to do
  http   each file is sent to the server, which keeps it under its own root

Each process takes its own road to each server: with `auto` by files where the
server reads a nonce that the process has written, else by HTTP. Neither a half
file nor one that was lost is ever loaded: the server gives a file its name when
its digest is right.
"""

import functools
import itertools
import logging
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import blake3

from atlas_jax import retries
from atlas_jax.server_config import ServingConfig
from atlas_jax.serving.http import ServerDown, ServerError, WeightsRefused
from atlas_jax.serving.server import TeacherServer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Road:
  """To one server."""

  server: TeacherServer
  config: ServingConfig

  @functools.cached_property
  def by_http(self) -> bool:
    """Chosen when it is first needed: the server must be up.

    Raises:
      ServerError: config.weights is files, and the server sees others.
      ServerDown: it does not answer.
    """
    server, wanted = self.server, self.config.weights
    shared = wanted != "http" and _is_shared(server)
    if wanted == "files" and not shared:
      raise ServerError(
        f"{server.base_url} does not see {server.weights_root} as its weights"
        " root: share the directory, or set config.serving.weights=http"
      )
    how = f"files in {server.weights_root}" if shared else "HTTP"
    log.info("weights go to %s by %s", server.base_url, how)
    return not shared

  def deliver(self, path: Path, digest: str) -> str:
    """Brings a file that was written under weights_root to the server.

    Returns the path there, under the server's root.

    A failed one is sent again whole, config.retries times, within the time of
    one request. Blocks; any thread.

    Args:
      path: of the file; the caller deletes it.
      digest: BLAKE3 of its bytes.

    Raises:
      ServerError: the server does not take it.
      ServerDown: it does not answer.
    """
    if not self.by_http:
      return path.name
    to = f"/v1/atlas/files/{path.name}"
    sent = {"file": path, "headers": {"X-Atlas-Blake3": digest}}
    end = time.monotonic() + self.config.request_timeout_s
    for attempt in itertools.count():
      sent["timeout_s"] = end - time.monotonic()
      try:
        answer = self.server.request_json("PUT", to, {"path": str}, **sent)
        return answer["path"]
      except (WeightsRefused, ServerDown) as error:
        # A body that broke or changed on its way is refused.
        pause, up = retries.pause_s(to, attempt, None), self.server.healthy()
        left = attempt < self.config.retries and time.monotonic() + pause < end
        if not up or not left:
          final = up and isinstance(error, WeightsRefused)
          raise (ServerError if final else ServerDown)(str(error)) from error
      time.sleep(pause)


def _is_shared(server: TeacherServer) -> bool:
  """Whether the server reads what is written under weights_root."""
  if server.spawned:  # with this very root
    return True
  name, content = secrets.token_hex(16), secrets.token_bytes(32)
  server.weights_root.mkdir(parents=True, exist_ok=True)
  path = server.weights_root / f"nonce-{name}"
  path.write_bytes(content)
  try:
    read = server.request_json(
      "GET", f"/v1/atlas/nonce/{name}", {"digest": str | None}, timeout_s=60
    )
  finally:
    path.unlink()
  return read["digest"] == blake3.blake3(content).hexdigest()
