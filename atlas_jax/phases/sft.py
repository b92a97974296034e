"""Supervised fine-tuning: the prompts of RL, the loss on the reply alone."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence

from atlas_jax import metrics, stopping
from atlas_jax.config import ConfigError, RunConfig
from atlas_jax.data import packing
from atlas_jax.data.problems import ProblemStream
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.teacher import Teacher
from atlas_jax.phases.trainer import make_update, rows_at_once
from atlas_jax.phases.training_phase import TrainingPhase

log = logging.getLogger(__name__)


Position = dict[str, int]  # in the stream of the examples
Sequences = Sequence[packing.TokenSequence]
Batch = tuple[packing.PackedBatch, packing.PackingStats, Position]


def full_batches(
  stream: ProblemStream[packing.TokenSequence],
  rows: int,
  length: int,
  rows_multiple: int = 1,
) -> Iterator[Batch]:
  """Batches of [rows, length], each filled until nothing more fits.

  Empty rows follow up to a multiple of rows_multiple.
  A sequence that does not fit opens the next batch; the position that comes
  with a batch is before it, where a run goes on that has trained the batch.
  """
  padded = -(-rows // rows_multiple) * rows_multiple
  sequences, lengths = [], []
  while True:
    position = stream.state()
    (sequence,) = stream.take(1)
    lengths.append(len(sequence.tokens))
    room = rows * length - sum(lengths)
    # Packing is tried only near the end: it cannot overflow before.
    near = room < rows * max(lengths)
    fits = room >= 0 and (
      not near or len(packing.best_fit(lengths, length)) <= rows
    )
    if not fits:
      yield (
        *packing.pack(sequences, length=length, rows_multiple=padded),
        position,
      )
      sequences, lengths = [], lengths[-1:]
    sequences.append(sequence)


def epochs_of(position: Position) -> float:
  """Passes over the examples."""
  return position["epoch"] + position["offset"] / position["size"]


def _batches(
  config: RunConfig,
  sequences: Sequences,
  position: Position | None,
  at_once: int = 1,
) -> Iterator[Batch]:
  cfg, stream = config.sft, ProblemStream(sequences, seed=config.seed)
  if position is not None:
    stream.restore(position)
  return full_batches(stream, cfg.batch_rows, cfg.row_length, at_once)


def total_steps(config: RunConfig, sequences: Sequences) -> int:
  """config.sft.steps, or those that train all examples config.sft.epochs times.

  Raises:
    ConfigError: the warm-up leaves none of them to the schedule.
  """
  cfg = config.sft
  if cfg.epochs is None:
    return cfg.steps
  ends = enumerate(_batches(config, sequences, None), start=1)
  steps = next(n for n, (_, _, at) in ends if epochs_of(at) >= cfg.epochs)
  log.info("%g epochs of SFT are %d steps", cfg.epochs, steps)
  for problem in cfg.optimizer.too_short(steps):
    raise ConfigError(f"config.sft.{problem}")
  return steps


def train(
  entry: PhaseEntry, teacher: Teacher, sequences: Sequences, steps: int
) -> None:
  """Trains the teacher for `steps`; resumes from its checkpoint."""
  cfg = entry.config.sft
  tx, train_step = make_update(entry.config, cfg, teacher.decoder_config, steps)
  at_once = rows_at_once(cfg, teacher.mesh)
  phase = TrainingPhase(entry, teacher, steps, tx)
  with contextlib.closing(phase), phase.reporting() as report, stopping.held():
    batches = _batches(entry.config, sequences, phase.saved, at_once)

    def log_step(step, result, packed, stats, epochs):
      nonlocal logged
      numbers = metrics.means([result])  # waits for the step
      now = time.perf_counter()
      seconds, logged = now - logged, now
      tokens = stats.fill * stats.rows * cfg.row_length
      numbers |= {
        "epochs": epochs,
        "packing_fill": stats.fill,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
      }
      report(step, numbers)
      phase.check_update(step, numbers, packed)

    pending, logged = None, time.perf_counter()
    for step in range(phase.done + 1, steps + 1):
      packed, stats, position = next(batches)
      batch = teacher.put(packed, stats.rows // at_once)
      phase.state, result = train_step(phase.state, batch)
      if pending is not None:
        log_step(*pending)  # one step behind: the device is never idle for us
      pending = step, result, packed, stats, epochs_of(position)
      if phase.is_due(step):
        log_step(*pending)
        pending = None
        phase.save(step, lambda at=position: at)
  teacher.advance(phase.state.model, steps)
