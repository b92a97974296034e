"""vLLM servers: started, watched and ended by the run, or given as a URL.

Two roles. A `TeacherServer` takes new weights while it runs; a
`StudentServer` is frozen: it is started without the weight transfer, without
the endpoint for it, and its class has no method that could send any.

A spawned server lives under `supervisor.py`, which ends it when this process
ends, killed or not.
"""

import logging
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from atlas_jax import gpus, hub, progress
from atlas_jax.config import ServingConfig
from atlas_jax.server_config import ServerConfig
from atlas_jax.serving import http, supervisor, vllm_command
from atlas_jax.serving.client import Client
from atlas_jax.serving.http import ServerDown, ServerError
from atlas_jax.serving.server_log import ServerLog

log = logging.getLogger(__name__)


class Server:
  """One server; see TeacherServer and StudentServer.

  Args:
    config: where and how; with `url` set, nothing is spawned.
    model_path: the Hugging Face directory to serve, or its name on the Hub.
    workdir: the run's directory; the log is <workdir>/logs/<role>.log.
    start_timeout_s: until the health check must have answered.
    api_key: bearer token; without one a spawned server draws its
      own.
  """

  role = ""
  weights_root: Path | None = None  # None: it takes no weights
  # Paths that the server must offer, and must not.
  _offers: tuple[str, ...] = ()
  _lacks: tuple[str, ...] = ()

  def __init__(
    self,
    config: ServerConfig,
    *,
    model_path: str | Path,
    workdir: str | Path,
    start_timeout_s: float,
    api_key: str | None = None,
  ):
    self._config = config
    self._start_timeout_s = start_timeout_s
    self.model_path = Path(model_path)
    self.workdir = Path(workdir)
    # Several servers may have one workdir, on several machines.
    which = f"-{platform.node()}-{config.port}" if config.port else ""
    self.log = ServerLog(self.workdir / "logs" / f"{self.role}{which}.log")
    self.spawned = config.url is None
    self.api_key = api_key
    if self.spawned and not api_key:
      self.api_key = secrets.token_hex(16)
    self.port = config.port
    self._process: subprocess.Popen | None = None
    self._started_at = 0.0

  @property
  def base_url(self) -> str:
    return self._config.url or f"http://{self._config.host}:{self.port}"

  @property
  def gpus(self) -> set[int]:
    """Those that a spawned server is bound to."""
    return set(gpus.numbers(self._config.gpus)) if self.spawned else set()

  def client(
    self, decode: Callable[[Sequence[int]], str], config: ServingConfig
  ) -> Client:
    """A client of this server, before or after its start; restarts too."""
    if self.spawned and not self.port:
      self.port = self._free_port()
    return Client(
      self.base_url,
      decode=decode,
      timeout_s=config.request_timeout_s,
      retries=config.retries,
      max_concurrency=config.max_concurrency,
      api_key=self.api_key,
    )

  # Starting and ending.

  def spawn(self) -> None:
    """Starts the process and returns at once; `wait` follows.

    Raises:
      ServerError: the port is in use, the model directory is not there, or
        the server runs already.
    """
    self._started_at = time.monotonic()
    if not self.spawned:
      return
    if self.alive():
      raise ServerError(f"the {self.role} server runs already")
    self.model_path = hub.directory(self.model_path, "model")
    if not (self.model_path / "config.json").is_file():
      raise ServerError(
        f"{self.model_path} is not a model directory: no config.json"
      )
    self.port = self._free_port()
    arguments, env = self._command()
    with self.log.open() as output:
      command = [sys.executable, *arguments]
      self._process = supervisor.start(command, env, output)
    given = self.role, self.base_url, self.log.path
    log.debug("starting the %s server at %s, log %s", *given)

  def _free_port(self) -> int:
    return vllm_command.free_port(self._config.host, self.port, self.role)

  def _command(self) -> tuple[list[str], dict[str, str]]:
    """(arguments after python, environment) of the server's process."""
    if self.weights_root is not None:
      self.weights_root.mkdir(parents=True, exist_ok=True)
    device = vllm_command.vllm_device()
    vllm_command.check_model(self.model_path, device)
    arguments, env = vllm_command.command(
      self._config,
      role=self.role,
      device=device,
      model_path=self.model_path.resolve(),
      port=self.port,
      weights_root=self.weights_root,
    )
    return arguments, {**env, "VLLM_API_KEY": self.api_key}

  def wait(self) -> None:
    """Waits until the server is healthy.

    Raises:
      ServerError: it died, or was not healthy within start_timeout_s, or it
        answers but is not the server that was asked for.
    """
    while True:
      seconds = time.monotonic() - self._started_at
      if self.spawned and self._process.poll() is not None:
        raise ServerError(
          f"the {self.role} server died after {seconds:.0f} s with exit"
          f" status {self._process.returncode}{self.log.explain()}"
        )
      if self.healthy():
        self._check_offers()
        log.debug(
          "%s server %s after %.1f s", self.role, self.base_url, seconds
        )
        return
      if seconds > self._start_timeout_s:
        raise ServerError(
          f"the {self.role} server at {self.base_url} was not healthy within"
          f" {self._start_timeout_s:g} s{self.log.explain()}"
        )
      time.sleep(0.2)

  def end(self) -> None:
    """Ends a spawned server and all its processes; a URL is left alone."""
    if self._process is None:
      return
    self._process.stdin.close()  # the supervisor's sign to end
    try:
      self._process.wait(15)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process = None

  def restart(self) -> None:
    """Ends the server if it lives and starts it again at the same address.

    The weights are those of `model_path` again.

    Raises:
      ServerError: it does not come back, or was given as a URL.
    """
    if not self.spawned:
      raise ServerError(
        f"the {self.role} server at {self.base_url} was not started by this"
        " run; restart it where it runs"
      )
    self.end()
    start(self)

  # Looking at it.

  def alive(self) -> bool:
    """True while a spawned process lives, or a URL answers."""
    if not self.spawned:
      return self.healthy()
    return self._process is not None and self._process.poll() is None

  def healthy(self) -> bool:
    try:
      status, _ = self._request("GET", "/health", timeout_s=5)
    except ServerDown:
      return False
    return status == 200

  def _check_offers(self) -> None:
    for path in (*self._offers, *self._lacks):
      # One that exists answers 200, 405 to a GET, or 409 during an update.
      status, _ = self._request("GET", path, timeout_s=60)
      wanted = (200, 405, 409) if path in self._offers else (404,)
      if status not in wanted:
        raise ServerError(
          f"{self.base_url} answers GET {path} with {status} instead of"
          f" {' or '.join(map(str, wanted))}, so it is not a {self.role}"
          " server of atlas_jax (401: another API key); start one with"
          " python -m launchers.serve"
        )

  def _request(
    self, method: str, path: str, body=None, *, timeout_s: float
  ) -> tuple[int, bytes]:
    return http.ask(
      method,
      self.base_url + path,
      body,
      api_key=self.api_key,
      timeout_s=timeout_s,
    )


class StudentServer(Server):
  """The frozen student: no way in for weights."""

  role = "student"
  _offers = ("/inference/v1/generate",)
  _lacks = ("/v1/atlas/weights",)


class TeacherServer(Server):
  """The teacher: takes new weights from files under its `weights_root`.

  That is <workdir>/weights, which this process and the server may share
  (weight_roads.py).
  """

  role = "teacher"
  _offers = ("/inference/v1/generate", "/v1/atlas/weights")

  @property
  def weights_root(self) -> Path:
    return self.workdir / "weights"

  @property
  def dtype(self) -> str:
    return self._config.dtype

  def update_weights(
    self,
    files: dict[str, str],
    version: str,
    checksums: dict[str, str],
    timeout_s: float,
    restart: bool = False,
  ) -> dict:
    """Has the server load files; see third_party/atlas_vllm/README.md.

    An update that it still works on, though nobody waits any more, ends first.

    Args:
      files: of safetensors, full or delta: BLAKE3 by path under weights_root.
      version: their label, reported with every completion from then on.
      checksums: of each whole tensor.
      timeout_s: for requests under way to end and the weights to be loaded.
      restart: the server may hold a newer version.

    Raises:
      http.WeightsRefused: the old weights serve on; the text says why.
      ServerDown: also if the update failed and the server ends.
      ServerError: any other answer.
    """
    body = {"files": files, "version": version, "checksums": checksums}
    seconds = dict.fromkeys(("seconds_check", "seconds_apply"), int | float)
    answer = self.request_json(
      *("POST", "/v1/atlas/update", {"version": str} | seconds),
      body=body | {"restart": restart},
      timeout_s=timeout_s,
    )
    if answer["version"] != version:
      raise ServerDown(
        f"{self.base_url} answers for weights {answer['version']} instead of"
        f" {version}"
      )
    return answer

  def request_json(self, method: str, path: str, form, **given) -> dict:
    """As http.ask_json, of this server."""
    url = self.base_url + path
    return http.ask_json(method, url, form, api_key=self.api_key, **given)


def start(*servers: Server) -> None:
  """Starts servers side by side, until all are healthy.

  Those that share a GPU start one after the other: each looks for its memory
  while it starts. If one fails, all are ended and its error is raised.
  """
  names = " and ".join(dict.fromkeys(server.role for server in servers))
  try:
    with progress.shown(progress.timed(f"starting servers: {names}")):
      for i, server in enumerate(servers):
        for other in servers[:i]:
          if server.gpus & other.gpus:
            other.wait()
        server.spawn()
      for server in servers:
        server.wait()
  except BaseException:
    for server in servers:
      server.end()
    raise
