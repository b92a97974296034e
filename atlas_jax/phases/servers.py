"""The teacher's and the student's server, as a run uses them.

The lead process alone sends requests. A failure of it is sent to every
process, so that all leave a collective in the same place.
"""

import logging
import pathlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np

from atlas_jax import multihost
from atlas_jax.config import ServingConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.errors import AtlasError
from atlas_jax.phases.teacher import Teacher
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
    student_path: the frozen student's directory, or its name on the Hub.
    student_chat: its tokenizer.
    key: the bearer token of servers that are given as URLs.
  """

  def __init__(
    self,
    config: ServingConfig,
    workdir: pathlib.Path,
    teacher: Teacher,
    student_path: str,
    student_chat: ChatTokenizer,
    key: str | None,
  ):
    self._config, self._workdir, self._key = config, workdir, key
    self._teacher = teacher
    self._student_path, self._student_chat = student_path, student_chat
    self._servers: tuple = ()  # these four are the lead's
    self._sender: WeightSender | None = None
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

  def publish(self) -> dict[str, float]:
    """Gives the teacher server the present weights; numbers to log.

    Does nothing when it holds them already. A collective.

    Raises:
      DisagreementError: afterwards trainer and server do not agree.
      ServerError: the server refused the weights.
      ServerDown: after config.restarts of the servers.
    """
    return self._with_restarts(self._publish)

  def call(self, work: Callable[[], T]) -> T | None:
    """The lead's `work()` with the servers up; None on the others.

    A collective; raises as `publish`, and what `work` raises.
    """

    def attempt():
      self._publish()  # after a restart; else it has nothing to do
      answers = []
      multihost.call_on_lead(lambda: answers.append(work()))
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
      Role(student, self._student_chat, "frozen"),
    )

  def _with_restarts(self, attempt: Callable[[], T]) -> T:
    self._start()
    while True:
      try:
        return attempt()
      except (ServerDown, multihost.LeadError) as e:
        error = e
      # Processes leave an attempt in the same place: the lead's error decides.
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

  def _publish(self) -> dict[str, float]:
    version = self._teacher.version
    if self._held == version:
      return {}
    tensors = self._teacher.exported(self._config.teacher.dtype)

    def send():
      sent = self._sender.send(tensors, version)
      return {"publish_bytes": sent.bytes, "publish_seconds": sent.seconds}

    numbers = multihost.call_on_lead(send)
    numbers["logprob_gap"] = self._check_agreement()
    self._held = version
    return numbers

  def _check_agreement(self) -> float:
    """Mean |trainer - server| log-prob over a fixed prompt's tokens."""
    ids = self._teacher.chat.prompt_ids(AGREEMENT_TEXT)
    ours = self._teacher.logprobs(ids)

    def score():
      return self.ask(self._clients[0].score(ids[:1], ids[1:]))

    gap = float(np.abs(ours - multihost.call_on_lead(score)).mean())
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
    if self._started:
      return
    dtype = self._config.teacher.dtype
    first = self._teacher.first_directory(self._workdir, dtype)
    multihost.call_on_lead(lambda: self._start_on_lead(first))
    self._started = True

  def _start_on_lead(self, teacher_path: pathlib.Path) -> None:
    c = self._config
    shared = {
      "workdir": self._workdir,
      "start_timeout_s": c.start_timeout_s,
      "api_key": self._key,
    }
    teacher = TeacherServer(c.teacher, model_path=teacher_path, **shared)
    student = StudentServer(c.student, model_path=self._student_path, **shared)
    self._servers = teacher, student
    self._sender = WeightSender(teacher, c)
    start(teacher, student)
    self._events = EventLoop()
    self._clients = (
      teacher.client(self._teacher.chat.decode, c),
      student.client(self._student_chat.decode, c),
    )
