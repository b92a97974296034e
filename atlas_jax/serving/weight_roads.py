"""The road on which files of weights come to a server.

  files  trainer and server share the directory: nothing is left to do
  http   each file is sent to the server, which keeps it under its own root

Each process takes its own road to each server: with `auto` by files where the
server reads a nonce that the process has written, else by HTTP. Neither a half
file nor one that was lost is ever loaded: the server gives a file its name when
its digest is right.
"""

import functools
import json
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

import blake3

from atlas_jax.server_config import ServingConfig
from atlas_jax.serving import http
from atlas_jax.serving.client import ServerDown, ServerError
from atlas_jax.serving.server import TeacherServer

# A body that broke or changed on its way, or found the disk full.
_SENT_AGAIN = (400, 507)

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

    A failed one is sent again whole, config.retries times. Blocks; any thread.

    Args:
      path: of the file; the caller deletes it.
      digest: BLAKE3 of its bytes.

    Raises:
      ServerError: the server does not take it.
      ServerDown: it does not answer.
    """
    if not self.by_http:
      return path.name
    url = f"{self.server.base_url}/v1/atlas/files/{path.name}"
    for left in reversed(range(self.config.retries + 1)):
      try:
        status, answer = http.ask(
          "PUT",
          url,
          file=path,
          headers={"X-Atlas-Blake3": digest},
          api_key=self.server.api_key,
          timeout_s=self.config.request_timeout_s,
        )
      except ServerDown:
        if not left or not self.server.healthy():
          raise
        continue
      if status == 200:
        return json.loads(answer)["path"]
      if not left or status not in _SENT_AGAIN:
        text = answer[:500].decode(errors="replace")
        raise ServerError(f"{url} answered {status}: {text}")


def _is_shared(server: TeacherServer) -> bool:
  """Whether the server reads what is written under weights_root."""
  if server.spawned:  # with this very root
    return True
  name, content = secrets.token_hex(16), secrets.token_bytes(32)
  server.weights_root.mkdir(parents=True, exist_ok=True)
  path = server.weights_root / f"nonce-{name}"
  path.write_bytes(content)
  url = f"{server.base_url}/v1/atlas/nonce/{name}"
  try:
    status, answer = http.ask("GET", url, api_key=server.api_key, timeout_s=60)
  finally:
    path.unlink()
  if status != 200:
    raise ServerError(
      f"{url} answered {status}: {answer[:500].decode(errors='replace')}"
    )
  return json.loads(answer)["digest"] == blake3.blake3(content).hexdigest()
