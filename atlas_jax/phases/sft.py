"""Supervised fine-tuning: the prompts of RL, the loss on the reply alone."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence

from atlas_jax import config_checks, metrics, stopping
from atlas_jax.config import ConfigError, RunConfig
from atlas_jax.data import packing
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.data.problems import ProblemStream, SftExample
from atlas_jax.phases.place import Place
from atlas_jax.phases.teacher import Teacher
from atlas_jax.phases.training_phase import TrainingPhase
from atlas_jax.teaching.prompts import Prompts
from atlas_jax.training import step as step_lib
from atlas_jax.training.optimizer import make_optimizer

log = logging.getLogger(__name__)


class FullBatches:
  """Batches of [rows, length] filled from a stream until nothing more fits.

  position() is where a run that has consumed the batches so far goes on; an
  example that did not fit opens the next batch.
  """

  def __init__(self, stream: ProblemStream, encode, rows: int, length: int):
    self._stream, self._encode = stream, encode
    self._rows, self._length = rows, length
    self._position = stream.state()
    self._waiting = None

  def position(self) -> dict[str, int]:
    return self._position

  def epochs(self) -> float:
    """Passes over the examples that the batches so far have made."""
    at = self._position
    return at["epoch"] + at["offset"] / at["size"]

  def _items(self) -> Iterator[tuple[dict[str, int], packing.Sequence]]:
    if self._waiting is not None:
      waiting, self._waiting = self._waiting, None
      yield waiting
    while True:
      position = self._stream.state()
      (example,) = self._stream.take(1)
      yield position, self._encode(example)

  def next(self) -> tuple[packing.PackedBatch, packing.PackingStats]:
    sequences, room = [], self._rows * self._length
    for position, sequence in self._items():
      room -= len(sequence.tokens)
      lengths = [len(s.tokens) for s in [*sequences, sequence]]
      # Packing is tried only near the end: it cannot overflow before.
      near = room < self._rows * max(lengths)
      fits = room >= 0 and (
        not near or len(packing.best_fit(lengths, self._length)) <= self._rows
      )
      if not fits:
        self._waiting = (position, sequence)
        self._position = position
        break
      sequences.append(sequence)
    return packing.pack(
      sequences, length=self._length, rows_multiple=self._rows
    )


def encoder(
  prompts: Prompts, chat: ChatTokenizer
) -> Callable[[SftExample], packing.Sequence]:
  """SftExample -> Sequence, through the templates and the chat format."""

  def encode(example: SftExample) -> packing.Sequence:
    text = prompts.render(example.template, example.fields)
    return packing.Sequence(*chat.training_example(text, example.response))

  return encode


def _batches(
  config: RunConfig,
  examples: Sequence[SftExample],
  prompts: Prompts,
  chat: ChatTokenizer,
  position: dict[str, int] | None = None,
) -> FullBatches:
  cfg, stream = config.sft, ProblemStream(examples, seed=config.seed)
  if position is not None:
    stream.restore(position)
  encode = encoder(prompts, chat)
  return FullBatches(stream, encode, cfg.batch_rows, cfg.row_length)


def total_steps(
  config: RunConfig,
  examples: Sequence[SftExample],
  prompts: Prompts,
  chat: ChatTokenizer,
) -> int:
  """config.sft.steps, or those that train all examples config.sft.epochs times.

  Raises:
    ConfigError: the warm-up leaves none of them to the schedule.
  """
  cfg = config.sft
  if cfg.epochs is None:
    return cfg.steps
  batches, steps = _batches(config, examples, prompts, chat), 0
  while batches.epochs() < cfg.epochs:  # it packs all examples
    batches.next()
    steps += 1
  log.info("%g epochs of SFT are %d steps", cfg.epochs, steps)
  for problem in config_checks.warmup("sft", cfg.optimizer, steps):
    raise ConfigError(problem)
  return steps


def train(
  place: Place,
  *,
  teacher: Teacher,
  prompts: Prompts,
  examples: Sequence[SftExample],
  steps: int,
) -> None:
  """Trains the teacher for `steps`; resumes from its checkpoint."""
  config, cfg = place.config, place.config.sft
  tx, schedule = make_optimizer(cfg.optimizer, steps)
  train_step = step_lib.make_train_step(
    step_lib.sft_objective(teacher.decoder_config, teacher.options),
    tx,
    schedule,
    skip_grad_norm=None,
  )
  phase = TrainingPhase(place, teacher, steps, tx)
  with (
    contextlib.closing(phase),
    phase.reporting() as report,
    stopping.held(),
  ):
    batches = _batches(config, examples, prompts, teacher.chat, phase.saved)

    def log_step(step, result, packed, fill, epochs):
      nonlocal logged
      numbers = metrics.means([result])  # waits for the step
      now = time.perf_counter()
      seconds, logged = now - logged, now
      tokens = fill * cfg.batch_rows * cfg.row_length
      numbers |= {
        "epochs": epochs,
        "packing_fill": fill,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
      }
      report(step, numbers, ("loss", "tokens_per_second"))
      phase.check_update(step, numbers, packed)

    pending, logged = None, time.perf_counter()
    for step in range(phase.done + 1, steps + 1):
      packed, stats = batches.next()
      batch = teacher.put(packed, cfg.micro_batches)
      phase.state, result = train_step(phase.state, batch)
      if pending is not None:
        log_step(*pending)  # one step behind: the device is never idle for us
      pending = step, result, packed, stats.fill, batches.epochs()
      if phase.is_due(step):
        log_step(*pending)
        pending = None
        phase.save(step, batches.position)
  teacher.advance(phase.state.model, steps)
