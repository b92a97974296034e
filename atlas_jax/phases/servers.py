"""The teacher's and the student's servers, as a run uses them.

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

from atlas_jax import hub, multihost
from atlas_jax.config import ConfigError, RunConfig, ServingConfig
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.errors import AtlasError
from atlas_jax.phases.teacher import Teacher
from atlas_jax.server_config import ServerConfig
from atlas_jax.serving.client import Client
from atlas_jax.serving.events import EventLoop
from atlas_jax.serving.fleet import Fleet
from atlas_jax.serving.http import ServerDown, ServerError
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
    urls: of servers that have it; none: the run starts one.
    name: as config.evaluate.students has it; None: the run's own student.
  """

  path: str
  chat: ChatTokenizer
  urls: tuple[str, ...] = ()
  name: str | None = None

  @classmethod
  def of(cls, path: str, config: RunConfig, urls=(), name=None) -> "Student":
    """The student of this path, with its tokenizer.

    Raises:
      AtlasError: it is not there, or has no weights, which no server at `urls`
        has in its place.
    """
    found = hub.directory(path, "model", weights=not urls)
    chat = ChatTokenizer.from_dir(found, config.template_date)
    if not urls and not any(found.glob("*.safetensors")):
      raise ConfigError(f"{path} holds no *.safetensors: put its weights there")
    return cls(path, chat, urls, name)


class Servers:
  """The servers of both roles, started when they are first needed.

  Whatever is asked of them
    1. a server that dies is left out while others of its role answer
       (fleet.py). A teacher's that answers again gets the present weights
       first, a student's must give the log-probs that its first one gave;
       where none is left it is started again, config.restarts times in a run;
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
    self._teacher, self._student = teacher, student  # those that are wanted
    self._served_student = student
    self._sender: WeightSender | None = None
    self._fleets: tuple[Fleet, ...] = ()
    self._events: EventLoop | None = None  # these two are the lead's
    self._student_scores: tuple[float, ...] = ()  # of AGREEMENT_TEXT
    # The version of the weights at the server; None: it is not known.
    self._published: int | None = None
    self._restarts = 0

  def close(self) -> None:
    try:
      if self._events is not None:
        for fleet in self._fleets:
          self._events.run(fleet.aclose())
        self._events.close()
    finally:
      for fleet in self._fleets:
        fleet.end()

  @contextlib.contextmanager
  def serving(self, teacher: Teacher | None, student: Student | None):
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
    return self._with_restarts(lambda: self._publish(hold), hold)

  def call(self, work: Callable[[], T], hold: bool = False) -> T | None:
    """The lead's `work()` with the servers up; None on the others.

    With `hold` a signal waits for its end. A collective; raises as `publish`,
    and what `work` raises.
    """

    def attempt():
      self._publish(hold)  # after a restart; else it has nothing to do
      return multihost.on_lead(work, hold)

    return self._with_restarts(attempt, hold)

  def ask(self, requests: Coroutine[Any, Any, T]) -> T:
    """The result of requests to the servers; for the lead, in any thread."""
    return self._events.run(requests)

  def roles(self) -> tuple[Role, Role]:
    """(teacher, student) as the weights stand that were published last."""
    teacher, student = self._fleets
    return (
      Role(teacher, self._teacher.chat, f"weights-{self._published}"),
      Role(student, self._student.chat, "frozen"),
    )

  def _with_restarts(self, attempt: Callable[[], T], hold: bool) -> T:
    self._start(hold)
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
      multihost.call_on_lead(self._restart_dead, hold)
      self._published = None

  def _restart_dead(self) -> None:
    """Starts the servers of a role again that has none left."""
    for fleet in self._fleets:
      if not any(server.healthy() for server in fleet.servers.values()):
        for server in fleet.servers.values():
          server.restart()

  def _take_back(self) -> bool:
    """Asks students again that are back; whether a teacher server is back."""
    teachers, students = self._fleets
    for client in students.back():
      if self._is_student(client):
        students.take_back(client)
      else:
        students.strangers.add(client)
    return bool(teachers.back())

  def _is_student(self, client: Client) -> bool:
    """Whether a server says what the student's first server said."""
    try:
      said = self.ask(client.score(*self._agreement(self._student.chat)))
    except ServerError as error:
      log.debug("%s: %s", client.base_url, error)
      return False
    gap = np.abs(np.subtract(said, self._student_scores)).mean()
    return bool(gap <= self._config.max_logprob_gap)

  def _agreement(self, chat: ChatTokenizer) -> tuple[list[int], list[int]]:
    ids = chat.prompt_ids(AGREEMENT_TEXT)
    return ids[:1], ids[1:]

  def _publish(self, hold: bool) -> dict[str, float]:
    version = self._teacher.version
    if self._published == version:
      return {}
    tensors = self._teacher.exported(self._config.teacher.dtype)
    sent = self._sender.send(tensors, version, hold)

    def numbers_of_all():
      self._fleets[0].require(version, self._sender.holds)
      found = {"publish_bytes": sent.bytes, "publish_seconds": sent.seconds}
      for role, fleet in zip(("teacher", "student"), self._fleets, strict=True):
        found |= fleet.numbers(role)
      return found

    numbers = multihost.call_on_lead(numbers_of_all, hold)
    numbers["logprob_gap"] = self._check_agreement(hold)
    self._published = version
    return numbers

  def _check_agreement(self, hold: bool) -> float:
    """Mean |trainer - server| log-prob of a fixed prompt; of the worst."""
    first, rest = self._agreement(self._teacher.chat)
    ours = self._teacher.logprobs([*first, *rest])

    def score():
      return self.ask(self._fleets[0].scores(first, rest))

    theirs = np.array(multihost.call_on_lead(score, hold))
    gap = float(np.abs(theirs - ours).mean(axis=1).max())
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

  def _start(self, hold: bool) -> None:
    """Starts the servers, or those of a student that is not served yet."""
    if not self._fleets:
      dtype = self._config.teacher.dtype
      first = self._teacher.first_directory(self._workdir, dtype)
      teachers = self._fleet(TeacherServer, self._config.teacher, first)
      one, *others = teachers.servers.values()
      self._sender = WeightSender(one, self._config, *others)
      self._fleets = teachers, self._student_fleet()
      multihost.call_on_lead(self._start_on_lead)
    elif self._served_student is not self._student:
      multihost.call_on_lead(self._exchange_student)
    elif multihost.call_on_lead(self._take_back, hold):
      self._published = None
    self._served_student = self._student

  def _start_on_lead(self) -> None:
    self._events = EventLoop()
    start(*(s for fleet in self._fleets for s in fleet.servers.values()))
    self._check_students()

  def _exchange_student(self) -> None:
    """Ends the student's servers before those of the wanted one start."""
    teachers, before = self._fleets
    before.end()
    self._events.run(before.aclose())
    self._fleets = teachers, self._student_fleet()
    start(*self._fleets[1].servers.values())
    self._check_students()

  def _check_students(self) -> None:
    first, *others = self._fleets[1].servers
    if others:
      ids = self._agreement(self._student.chat)
      self._student_scores = self.ask(first.score(*ids))
    for client in others:
      if not self._is_student(client):
        raise DisagreementError(
          f"{client.base_url} has another student than {first.base_url}: the"
          " log-probs of a fixed prompt differ"
        )

  def _student_fleet(self) -> Fleet:
    config = replace(self._config.student, url=None, urls=self._student.urls)
    return self._fleet(StudentServer, config, self._student.path)

  def _fleet(self, kind: type, config: ServerConfig, path) -> Fleet:
    chat = self._teacher.chat if kind is TeacherServer else self._student.chat
    servers = [
      kind(
        replace(config, url=url, urls=()),
        model_path=path,
        workdir=self._workdir,
        start_timeout_s=self._config.start_timeout_s,
        api_key=self._key,
      )
      for url in config.elsewhere or (None,)
    ]
    return Fleet({s.client(chat.decode, self._config): s for s in servers})
