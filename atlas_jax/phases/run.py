"""A run: what its phases share (teacher, servers, problems, metrics).

Who does what when there are several processes: every process holds its shard
of the teacher and enters every collective; the lead alone talks HTTP and
writes files, and tells the others the outcome, failures included.
"""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import config as config_lib
from atlas_jax import metrics, multihost, sharding
from atlas_jax.data import packing, splits
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.packing import PackedBatch
from atlas_jax.model import decoder, hf
from atlas_jax.serving import server as server_lib
from atlas_jax.serving import weight_sync
from atlas_jax.serving.client import ServerDown
from atlas_jax.serving.events import EventLoop
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.teaching.requests import Role
from atlas_jax.training import step as step_lib

log = logging.getLogger(__name__)

# Scored by trainer and server after each publish. Any text does.
AGREEMENT_TEXT = "What is 12 + 34? Explain first how you would solve it."

T = TypeVar("T")


class DisagreementError(RuntimeError):
  """Trainer and server give the same tokens different log-probs."""


class Run:
  """One run in its directory; inside `jax.set_mesh`. A context manager.

  Attributes:
    model: the teacher's parameters as they are now.
    version: updates of the teacher over all phases: the name of its weights
      wherever they travel.
  """

  def __init__(
    self,
    config: config_lib.RunConfig,
    workdir: pathlib.Path,
    server_key: str | None,
  ):
    self.config = config
    self._server_key = server_key
    self.workdir = workdir
    self.prompts = Prompts(config.prompts)
    self.splits = splits.load(config.data)
    # Read here, so that bad data stops a run before anything starts.
    self.sft_examples = []
    if "sft" in config.phases:
      self.sft_examples = splits.load_sft(
        config.data, self.splits.validation + self.splits.test
      )
    self.mesh = jax.sharding.get_mesh()
    self.tokenizer = ChatTokenizer.from_dir(config.teacher.path)
    if {"grpo", "evaluate"} & set(config.phases):
      self._student_chat = ChatTokenizer.from_dir(config.serving.student_path)
    self.hf_config = hf.read_config(config.teacher.path)
    self.decoder_config = decoder.DecoderConfig.from_hf(self.hf_config)
    self.version = 0
    self._model = None
    self._published: int | None = None
    self._servers: tuple = ()
    self._publisher: weight_sync.Publisher | None = None  # the lead's
    self._events: EventLoop | None = None
    self._roles: tuple[Role, Role] | None = None
    self._restarts = 0
    self._probe = None

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    if self._events is not None:
      for role in self._roles or ():
        self._events.run(role.client.aclose())
      self._events.close()
    for server in self._servers:
      server.end()

  # The teacher.

  @property
  def model(self) -> decoder.Decoder:
    if self._model is None:
      c = self.config.teacher
      dtype = jnp.dtype(c.param_dtype)
      if c.random_init:
        self._model = hf.init(self.decoder_config, self.config.seed, dtype)
      else:
        _, self._model = hf.load(c.path, dtype)
    return self._model

  @model.setter
  def model(self, value: decoder.Decoder) -> None:
    self._model = value

  def abstract_state(self, tx) -> step_lib.TrainState:
    """The TrainState's shapes and shardings, to restore into."""
    dtype = jnp.dtype(self.config.teacher.param_dtype)
    return step_lib.abstract_state(hf.abstract(self.decoder_config, dtype), tx)

  def put(self, batch: PackedBatch) -> PackedBatch:
    """[M, B/M, T] host arrays, equal on every process, on the devices."""
    return sharding.put_equal(batch, self.mesh, batch_axis=1)

  def export(self, path: pathlib.Path, dtype: str) -> None:
    """Writes the teacher as a Hugging Face directory. A collective."""
    hf.save(
      path,
      self.model,
      self.decoder_config,
      self.hf_config,
      source_dir=self.config.teacher.path,
      dtype=jnp.dtype(dtype),
    )

  # The servers.

  def roles(self) -> tuple[Role, Role]:
    """(teacher, student) to sample from; starts the servers.

    Only the lead's have a client. The teacher's version is that of the
    weights last published.
    """
    if self._roles is None:
      self._roles = self._open_roles()
    teacher, student = self._roles
    version = f"weights-{self._published}"
    return dataclasses.replace(teacher, version=version), student

  def _open_roles(self) -> tuple[Role, Role]:
    c = self.config.serving
    teacher_path = pathlib.Path(self.config.teacher.path)
    if self.config.teacher.random_init:
      teacher_path = self.workdir / "initial"
      self.export(teacher_path, c.teacher.dtype)
    multihost.call_on_lead(lambda: self._start_servers(teacher_path))
    chats = (self.tokenizer, self._student_chat)
    clients = [
      server.client(
        decode=chat.decode,
        timeout_s=c.request_timeout_s,
        retries=c.retries,
        max_concurrency=c.max_concurrency,
      )
      for server, chat in zip(self._servers, chats, strict=False)
    ] or [None, None]
    return (
      Role(clients[0], chats[0], "initial"),
      Role(clients[1], chats[1], "frozen"),
    )

  def _start_servers(self, teacher_path: pathlib.Path) -> None:
    c = self.config.serving
    shared = {
      "workdir": self.workdir,
      "start_timeout_s": c.start_timeout_s,
      "api_key": self._server_key,
    }
    self._servers = (
      server_lib.TeacherServer(c.teacher, model_path=teacher_path, **shared),
      server_lib.StudentServer(c.student, model_path=c.student_path, **shared),
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

  def publish(self) -> dict[str, float]:
    """Gives the teacher server the present weights; numbers to log.

    Does nothing when it holds them already. A collective.

    Raises:
      DisagreementError: afterwards trainer and server do not agree.
      ServerError: the server refused the weights.
      ServerDown: after config.serving.restarts of the servers.
    """
    return self._with_restarts(self._publish)

  def _publish(self) -> dict[str, float]:
    if self._published == self.version:
      return {}
    tensors = hf.export_tensors(
      self.model,
      self.decoder_config,
      jnp.dtype(self.config.serving.teacher.dtype),
    )

    def send():
      report = self._publisher.publish(tensors, self.version)
      return {
        "publish_bytes": report.bytes,
        "publish_seconds": report.seconds_write
        + report.seconds_check
        + report.seconds_apply
        + report.seconds_verify,
      }

    numbers = multihost.call_on_lead(send)
    numbers["logprob_gap"] = self._check_agreement()
    self._published = self.version
    return numbers

  def _agreement_probe(self):
    """(token ids of a fixed prompt, model -> the trainer's log-probs of it)."""
    ids = self.tokenizer.prompt_ids(AGREEMENT_TEXT)
    mask = np.ones(len(ids), np.float32)
    mask[0] = 0
    parts = self.mesh.shape["context"]
    batch, _ = packing.pack(
      [packing.Sequence(np.array(ids, np.int32), mask)],
      length=-(-len(ids) // parts) * parts,
      rows_multiple=sharding.batch_shards(self.mesh),
    )
    batch = self.put(packing.split_micro(batch, 1))
    score = step_lib.make_score_step(
      self.decoder_config, self.config.teacher, temperature=1.0
    )
    return ids, lambda model: score(model, batch)

  def _check_agreement(self) -> float:
    """Mean |trainer - server| log-prob over a fixed prompt's tokens."""
    if self._probe is None:
      self._probe = self._agreement_probe()
    ids, score = self._probe
    ours = np.asarray(sharding.place(score(self.model)))[0, 0, 1 : len(ids)]
    theirs = multihost.call_on_lead(
      lambda: self.ask(self._roles[0].client.score(ids[:1], ids[1:]))
    )
    gap = float(np.abs(ours - np.asarray(theirs)).mean())
    bound = self.config.serving.max_logprob_gap
    log.info(
      "weights %d: mean |trainer - server| log-prob %.2g over %d tokens"
      " (bound %.2g)",
      self.version,
      gap,
      len(ids) - 1,
      bound,
    )
    if not gap <= bound:
      raise DisagreementError(
        f"trainer and teacher server disagree on weights {self.version}: mean"
        f" |difference| of log-probs {gap:.3g} is above"
        f" config.serving.max_logprob_gap={bound:g}"
      )
    return gap

  def ask(self, work: Coroutine[Any, Any, T]) -> T:
    """The result of requests to the servers; for the lead, in any thread."""
    return self._events.run(work)

  def with_servers(self, work: Callable[[], T]) -> T | None:
    """The lead's `work()` with the servers up; None on the others.

    A server that dies is started again, gets the present weights, and `work`
    is called once more, so what it returns must follow from them and from its
    arguments alone. A collective: every process learns of a failure.

    Raises:
      ServerDown: after config.serving.restarts of them.
    """

    def attempt():
      self._publish()  # after a restart; else it has nothing to do
      answers = []
      multihost.call_on_lead(lambda: answers.append(work()))
      return answers[0] if answers else None

    return self._with_restarts(attempt)

  def _with_restarts(self, attempt: Callable[[], T]) -> T:
    """`attempt()`, a collective, until no server dies under it."""
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
      if not down or self._restarts == self.config.serving.restarts:
        raise error
      self._restarts += 1
      log.warning(
        "restart %d of at most %d: %s",
        self._restarts,
        self.config.serving.restarts,
        error,
      )
      multihost.call_on_lead(self._restart_dead)
      self._published = None

  def _restart_dead(self) -> None:
    for server in self._servers:
      if not server.healthy():
        server.restart()

  # Telling.

  @contextlib.contextmanager
  def reporting(self, name: str, *, start: int, total: int):
    """report(step, values, shown): metrics files and the live line."""
    if not multihost.is_lead():
      yield lambda step, values, shown: None
      return
    writer = metrics.Writer(
      self.workdir,
      name,
      resume_step=start,
      wandb_project=self.config.wandb_project,
    )
    progress = metrics.Progress(name, start=start, total=total)

    def report(step, values, shown):
      writer.write(step, values)
      progress.update(step, {k: values[k] for k in shown if k in values})

    try:
      yield report
    finally:
      progress.close()
      writer.close()
