"""The teacher's and the student's server, as a run uses them.

The lead process alone sends requests. A failure of it is sent to every
process, so that all leave a collective in the same place.
"""

import contextlib
import logging
import pathlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from atlas_jax import multihost
from atlas_jax.config import ServingConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.errors import AtlasError
from atlas_jax.phases.teacher import Teacher
from atlas_jax.server_config import ServerConfig
from atlas_jax.serving.client import ServerDown
from atlas_jax.serving.events import EventLoop
from atlas_jax.serving.server import StudentServer, TeacherServer, start
from atlas_jax.serving.weight_sync import WeightSender
from atlas_jax.teaching.speakers import Role

log = logging.getLogger(__name__)

# Scored by trainer and server after each publish. Any text does.
AGREEMENT_TEXT = "What is 12 + 34? Explain first how you would solve it."

T = TypeVar("T")


class DisagreementError(AtlasError):
  """Trainer and server give the same tokens different log-probs."""


@dataclass(frozen=True)
class Student:
  """A frozen model that is taught.

  Attributes:
    path: its directory, or its name on the Hub.
    chat: its tokenizer.
    url: of a server that has it; None: the run starts one.
    name: as config.evaluate.students has it; None: the run's own student.
  """

  path: str
  chat: ChatTokenizer
  url: str | None = None
  name: str | None = None


class Servers:
  """Both servers, started when they are first needed, and what they hold.

  Whatever is asked of them
    1. a server that dies is started again, config.restarts times in a run;
    2. the teacher server then gets the present weights, before anything else
       is asked of it;
    3. what was asked is asked once more, so it must follow from the weights
       and from its arguments alone.

  Args:
    config: config.serving.
    workdir: of the run; weights travel through it.
    teacher: whose weights are published.
    student: who is taught.
    key: the bearer token of servers that are given as URLs.
  """

  def __init__(
    self,
    config: ServingConfig,
    workdir: pathlib.Path,
    teacher: Teacher,
    student: Student | None,
    key: str | None,
  ):
    self._config, self._workdir, self._key = config, workdir, key
    # Those that are wanted; the second is the student that is served.
    self._teacher, self._student, self._served = teacher, student, student
    self._sender: WeightSender | None = None
    self._servers: tuple = ()  # these three are the lead's
    self._events: EventLoop | None = None
    self._clients: tuple = (None, None)
    self._started = False
    self._held: int | None = None  # the version at the server; None: unknown
    self._restarts = 0

  def close(self) -> None:
    try:
      if self._events is not None:
        for client in filter(None, self._clients):
          self._events.run(client.aclose())
        self._events.close()
    finally:
      for server in self._servers:
        server.end()

  @contextlib.contextmanager
  def holding(self, teacher: Teacher | None, student: Student | None):
    """Inside, the servers hold these; None: the one that they held before.

    What is held changes with the next call that needs it.
    """
    before = self._teacher, self._student
    self._teacher, self._student = teacher or before[0], student or before[1]
    try:
      yield
    finally:
      self._teacher, self._student = before

  def publish(self, hold: bool = False) -> dict[str, float]:
    """Gives the teacher server the present weights; numbers to log.

    Does nothing when it holds them already. With `hold` a signal waits for its
    end. A collective.

    Raises:
      DisagreementError: afterwards trainer and server do not agree.
      ServerError: the server refused the weights.
      ServerDown: after config.restarts of the servers.
    """
    return self._with_restarts(lambda: self._publish(hold))

  def call(self, work: Callable[[], T], hold: bool = False) -> T | None:
    """The lead's `work()` with the servers up; None on the others.

    With `hold` a signal waits for its end. A collective; raises as `publish`,
    and what `work` raises.
    """

    def attempt():
      self._publish(hold)  # after a restart; else it has nothing to do
      answers = []
      multihost.call_on_lead(lambda: answers.append(work()), hold)
      return answers[0] if answers else None

    return self._with_restarts(attempt)

  def ask(self, requests: Coroutine[Any, Any, T]) -> T:
    """The result of requests to the servers; for the lead, in any thread."""
    return self._events.run(requests)

  def roles(self) -> tuple[Role, Role]:
    """(teacher, student) as the weights stand that were published last."""
    teacher, student = self._clients
    return (
      Role(teacher, self._teacher.chat, f"weights-{self._held}"),
      Role(student, self._student.chat, "frozen"),
    )

  def _with_restarts(self, attempt: Callable[[], T]) -> T:
    self._start()
    while True:
      try:
        return attempt()
      except Exception as e:
        error = e
      # Processes leave an attempt in the same place, whatever the lead raised;
      # its error decides.
      down = multihost.broadcast_json(isinstance(error, ServerDown))
      if not down or self._restarts == self._config.restarts:
        raise error
      self._restarts += 1
      at_most = self._config.restarts
      log.warning(
        "restart %d of at most %d: %s", self._restarts, at_most, error
      )
      multihost.call_on_lead(self._restart_dead)
      self._held = None

  def _restart_dead(self) -> None:
    for server in self._servers:
      if not server.healthy():
        server.restart()

  def _publish(self, hold: bool) -> dict[str, float]:
    version = self._teacher.version
    if self._held == version:
      return {}
    tensors = self._teacher.exported(self._config.teacher.dtype)
    sent = self._sender.send(tensors, version, hold)
    numbers = {"publish_bytes": sent.bytes, "publish_seconds": sent.seconds}
    numbers["logprob_gap"] = self._check_agreement(hold)
    self._held = version
    return numbers

  def _check_agreement(self, hold: bool) -> float:
    """Mean |trainer - server| log-prob over a fixed prompt's tokens."""
    ids = self._teacher.chat.prompt_ids(AGREEMENT_TEXT)
    ours = self._teacher.logprobs(ids)

    def score():
      return self.ask(self._clients[0].score(ids[:1], ids[1:]))

    gap = float(np.abs(ours - multihost.call_on_lead(score, hold)).mean())
    bound, version = self._config.max_logprob_gap, self._teacher.version
    what = "weights %d: mean |trainer - server| log-prob %.2g (bound %.2g)"
    log.debug(what, version, gap, bound)
    if not gap <= bound:
      raise DisagreementError(
        f"trainer and teacher server disagree on weights {version}: mean"
        f" |difference| of log-probs {gap:.3g} is above"
        f" config.serving.max_logprob_gap={bound:g}"
      )
    return gap

  def _start(self) -> None:
    """Starts both servers, or that of a student that is not served yet."""
    if not self._started:
      dtype = self._config.teacher.dtype
      first = self._teacher.first_directory(self._workdir, dtype)
      server = self._server(TeacherServer, self._config.teacher, first)
      self._sender = WeightSender(server, self._config)
      multihost.call_on_lead(lambda: self._start_on_lead(server))
    elif self._served is not self._student:
      multihost.call_on_lead(self._exchange_student)
    self._started, self._served = True, self._student

  def _start_on_lead(self, teacher: TeacherServer) -> None:
    c = self._config
    student = self._student_server()
    self._servers = teacher, student
    start(teacher, student)
    self._events = EventLoop()
    self._clients = (
      teacher.client(self._teacher.chat.decode, c),
      student.client(self._student.chat.decode, c),
    )

  def _exchange_student(self) -> None:
    """Ends the student's server before that of the wanted one starts."""
    (teacher, before), (client, old) = self._servers, self._clients
    before.end()
    self._events.run(old.aclose())
    student = self._student_server()
    self._servers = teacher, student
    start(student)
    new = student.client(self._student.chat.decode, self._config)
    self._clients = client, new

  def _student_server(self) -> StudentServer:
    config = replace(self._config.student, url=self._student.url)
    return self._server(StudentServer, config, self._student.path)

  def _server(self, kind: type, config: ServerConfig, path):
    return kind(
      config,
      model_path=path,
      workdir=self._workdir,
      start_timeout_s=self._config.start_timeout_s,
      api_key=self._key,
    )
