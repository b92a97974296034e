"""A run: what its phases share (teacher, servers, problems, metrics).

Who does what when there are several processes: every process holds its shard
of the teacher and enters every collective; the lead alone talks HTTP and
writes files, and tells the others the outcome, failures included.
"""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import config as config_lib
from atlas_jax import hub, metrics, multihost, sharding, targets
from atlas_jax.data import packing, splits
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.packing import PackedBatch
from atlas_jax.data.problems import DataError
from atlas_jax.errors import AtlasError
from atlas_jax.model import decoder, hf
from atlas_jax.phases.fitting import fitting, fitting_examples
from atlas_jax.phases.servers import Servers
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.training import step as step_lib

log = logging.getLogger(__name__)

# Scored by trainer and server after each publish. Any text does.
AGREEMENT_TEXT = "What is 12 + 34? Explain first how you would solve it."

T = TypeVar("T")


class DisagreementError(AtlasError):
  """Trainer and server give the same tokens different log-probs."""


class Run:
  """One run in its directory; inside `jax.set_mesh`. A context manager.

  Attributes:
    model: the teacher's parameters as they are now.
    servers: to sample from; None where no phase does.
    version: updates of the teacher over all phases: the name of its weights
      wherever they travel.
  """

  def __init__(
    self,
    config: config_lib.RunConfig,
    workdir: pathlib.Path,
    server_key: str | None,
  ):
    if config.wandb_project is not None:
      metrics.import_wandb()
    self.config = config
    self.workdir = workdir
    self.prompts = Prompts(config.prompts, config.episode.stated_probe_tokens)
    self.splits = splits.load(config.data)
    # Read here, so that bad data stops a run before anything starts.
    self.sft_examples = []
    if "sft" in config.phases:
      self.sft_examples = splits.load_sft(
        config.data, self.splits.validation + self.splits.test
      )
    if "grpo" in config.phases:
      for key, term in config.reward.extra.items():
        where = f"config.reward.extra.{key}.function"
        targets.function(term["function"], where, takes=1)
    self.mesh = jax.sharding.get_mesh()
    parts = self.mesh.shape["context"]
    for phase in {"sft", "grpo"} & set(config.phases):
      length = getattr(config, phase).row_length
      if length % parts:
        raise config_lib.ConfigError(
          f"config.{phase}.row_length={length} does not divide over"
          f" config.mesh.context={parts}"
        )
    self.config = config = self._marked()
    self.teacher_dir = hub.directory(config.teacher.path, "model")
    self.hf_config = hf.read_config(self.teacher_dir)
    day = config.template_date
    self.tokenizer = ChatTokenizer.from_dir(self.teacher_dir, day)
    self.servers = None
    if {"grpo", "evaluate"} & set(config.phases):
      self.student_tokenizer = ChatTokenizer.from_dir(
        hub.directory(config.student.path, "model"), day
      )
      self.servers = Servers(
        config.serving,
        workdir,
        (self.tokenizer, self.student_tokenizer),
        server_key,
        self._first_weights,
        config.student.path,
      )
    self._leave_out_too_long()
    self.decoder_config = decoder.DecoderConfig.from_hf(self.hf_config)
    self.version = 0
    self._model = None
    self._probe = None

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    if self.servers is not None:
      self.servers.close()

  # The problems.

  def _marked(self) -> config_lib.RunConfig:
    """The config with the fingerprint of the problems and examples.

    Raises:
      DataError: it has another one.
    """
    data = self.config.data
    mark = splits.fingerprint(self.splits, self.sft_examples)
    if data.fingerprint not in (None, mark):
      raise DataError(
        f"the problems or examples of config.data are not those that the run"
        f" began with ({data.fingerprint}, now {mark}): put back what was in"
        " their files, or choose another --workdir"
      )
    data = dataclasses.replace(data, fingerprint=mark)
    return dataclasses.replace(self.config, data=data)

  def _leave_out_too_long(self) -> None:
    c, chat = self.config, {"prompts": self.prompts, "teacher": self.tokenizer}
    if "sft" in c.phases:
      self.sft_examples = fitting_examples(self.sft_examples, **chat, config=c)
    uses = {"grpo": "train", "evaluate": c.evaluate.split}
    for split in {uses[phase] for phase in uses if phase in c.phases}:
      problems = fitting(
        getattr(self.splits, split),
        **{"split": split, **chat, "student": self.student_tokenizer},
        config=c,
      )
      self.splits = dataclasses.replace(self.splits, **{split: problems})

  # The teacher.

  @property
  def model(self) -> decoder.Decoder:
    if self._model is None:
      c = self.config.teacher
      dtype = jnp.dtype(c.param_dtype)
      if c.random_init:
        self._model = hf.init(self.decoder_config, self.config.seed, dtype)
      else:
        _, self._model = hf.load(self.teacher_dir, dtype)
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
    return sharding.put_batch(batch, self.mesh, batch_axis=1)

  def export(self, path: pathlib.Path, dtype: str) -> None:
    """Writes the teacher as a Hugging Face directory. A collective."""
    hf.save(
      path,
      self.model,
      self.decoder_config,
      self.hf_config,
      source_dir=self.teacher_dir,
      dtype=jnp.dtype(dtype),
    )

  # The servers.

  def _first_weights(self) -> pathlib.Path:
    if not self.config.teacher.random_init:
      return self.teacher_dir
    path = self.workdir / "initial"
    self.export(path, self.config.serving.teacher.dtype)
    return path

  def publish(self) -> dict[str, float]:
    """Gives the teacher server the present weights; numbers to log.

    Does nothing when it holds them already. A collective.

    Raises:
      DisagreementError: afterwards trainer and server do not agree.
      ServerError: the server refused the weights.
      ServerDown: after config.serving.restarts of the servers.
    """
    return self.servers.with_restarts(self._publish)

  def _publish(self) -> dict[str, float]:
    if self.servers.published == self.version:
      return {}
    tensors = hf.export_tensors(
      self.model,
      self.decoder_config,
      jnp.dtype(self.config.serving.teacher.dtype),
    )
    numbers = self.servers.publish(tensors, self.version)
    numbers["logprob_gap"] = self._check_agreement()
    self.servers.published = self.version
    return numbers

  def _agreement_probe(self):
    """(token ids of a fixed prompt, model -> the trainer's log-probs of it)."""
    ids = self.tokenizer.prompt_ids(AGREEMENT_TEXT)
    mask = np.ones(len(ids), np.float32)
    mask[0] = 0
    parts = self.mesh.shape["context"]
    batch, _ = packing.pack(
      [packing.TokenSequence(np.array(ids, np.int32), mask)],
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
    theirs = self.servers.teacher_logprobs(ids)
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

    return self.servers.with_restarts(attempt)

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
      config=config_lib.to_dict(self.config),
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
