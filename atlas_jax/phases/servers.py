"""The teacher's and the student's server, as a run uses them.

The lead alone talks to them. Whatever fails there is told to every process,
so that all leave a collective in the same place.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from atlas_jax import config as config_lib
from atlas_jax import multihost
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.serving import server as server_lib
from atlas_jax.serving import weight_sync
from atlas_jax.serving.client import ServerDown
from atlas_jax.serving.events import EventLoop
from atlas_jax.teaching.speakers import Role

log = logging.getLogger(__name__)

T = TypeVar("T")


class Servers:
  """Both servers, started when they are first needed.

  Args:
    config: config.serving.
    workdir: of the run; weights travel through it.
    chats: tokenizers of teacher and student.
    key: the bearer token of servers that are given as URLs.
    first_weights: returns the directory that the teacher server starts from.
      A collective.
    student_path: the student's directory, or its name at the Hub.

  Attributes:
    published: the version that the teacher server holds; None: unknown.
  """

  def __init__(
    self,
    config: config_lib.ServingConfig,
    workdir: pathlib.Path,
    chats: tuple[ChatTokenizer, ChatTokenizer],
    key: str | None,
    first_weights: Callable[[], pathlib.Path],
    student_path: str,
  ):
    self.published: int | None = None
    self._config, self._workdir, self._chats = config, workdir, chats
    self._key, self._first_weights = key, first_weights
    self._student_path = student_path
    self._servers: tuple = ()
    self._publisher: weight_sync.Publisher | None = None  # the lead's
    self._events: EventLoop | None = None
    self._roles: tuple[Role, Role] | None = None
    self._restarts = 0

  def close(self) -> None:
    if self._events is not None:
      for role in self._roles or ():
        self._events.run(role.client.aclose())
      self._events.close()
    for server in self._servers:
      server.end()

  def roles(self) -> tuple[Role, Role]:
    """(teacher, student) to sample from; starts the servers. A collective.

    Only the lead's have a client. The teacher's version is that of the
    weights last published.
    """
    if self._roles is None:
      self._roles = self._open()
    teacher, student = self._roles
    version = f"weights-{self.published}"
    return dataclasses.replace(teacher, version=version), student

  def _open(self) -> tuple[Role, Role]:
    c = self._config
    teacher_path = self._first_weights()
    multihost.call_on_lead(lambda: self._start(teacher_path))
    clients = [
      server.client(
        decode=chat.decode,
        timeout_s=c.request_timeout_s,
        retries=c.retries,
        max_concurrency=c.max_concurrency,
      )
      for server, chat in zip(self._servers, self._chats, strict=False)
    ] or [None, None]
    return (
      Role(clients[0], self._chats[0], "initial"),
      Role(clients[1], self._chats[1], "frozen"),
    )

  def _start(self, teacher_path: pathlib.Path) -> None:
    c = self._config
    shared = {
      "workdir": self._workdir,
      "start_timeout_s": c.start_timeout_s,
      "api_key": self._key,
    }
    self._servers = (
      server_lib.TeacherServer(c.teacher, model_path=teacher_path, **shared),
      server_lib.StudentServer(
        c.student, model_path=self._student_path, **shared
      ),
    )
    self._publisher = weight_sync.Publisher(self._servers[0], c)
    seconds = server_lib.start(*self._servers)
    self._events = EventLoop()
    log.info(
      "teacher server %s after %.1f s, student server %s after %.1f s",
      self._servers[0].base_url,
      seconds[0],
      self._servers[1].base_url,
      seconds[1],
    )

  def publish(self, tensors, version: int) -> dict[str, float]:
    """Gives the teacher server weights; numbers to log. A collective.

    The caller sets `published` once it trusts them.
    """

    def send():
      report = self._publisher.publish(tensors, version)
      return {
        "publish_bytes": report.bytes,
        "publish_seconds": report.seconds_write
        + report.seconds_check
        + report.seconds_apply
        + report.seconds_verify,
      }

    return multihost.call_on_lead(send)

  def teacher_logprobs(self, ids: list[int]) -> list[float]:
    """The teacher server's log-probs of ids[1:]. A collective."""
    return multihost.call_on_lead(
      lambda: self.ask(self._roles[0].client.score(ids[:1], ids[1:]))
    )

  def ask(self, work: Coroutine[Any, Any, T]) -> T:
    """The result of requests to the servers; for the lead, in any thread."""
    return self._events.run(work)

  def with_restarts(self, attempt: Callable[[], T]) -> T:
    """`attempt()`, a collective, until no server dies under it.

    Raises:
      ServerDown: after config.serving.restarts of them, over the whole run.
    """
    self.roles()
    while True:
      error, value = None, None
      try:
        value = attempt()
      except (ServerDown, multihost.LeadError) as e:
        error = e
      if error is None:
        return value
      # Processes leave an attempt in the same place: what the lead met counts.
      down = multihost.broadcast_json(isinstance(error, ServerDown))
      if not down or self._restarts == self._config.restarts:
        raise error
      self._restarts += 1
      log.warning(
        "restart %d of at most %d: %s",
        self._restarts,
        self._config.restarts,
        error,
      )
      multihost.call_on_lead(self._restart_dead)
      self.published = None

  def _restart_dead(self) -> None:
    for server in self._servers:
      if not server.healthy():
        server.restart()
