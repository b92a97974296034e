"""Supervised fine-tuning: the prompts of RL, the loss on the reply alone."""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator

from atlas_jax import metrics, stopping
from atlas_jax.config import ConfigError
from atlas_jax.data import packing
from atlas_jax.data.problems import DataError, ProblemStream, SftExample
from atlas_jax.phases.run import Run
from atlas_jax.phases.trained import Trained
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

  def _items(self) -> Iterator[tuple[dict[str, int], packing.TokenSequence]]:
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


def encoder(run: Run):
  """SftExample -> Sequence, through the templates and the chat format."""
  length = run.config.sft.row_length

  def encode(example: SftExample) -> packing.TokenSequence:
    text = run.prompts.render(example.template, example.fields)
    kwargs = run.config.episode.chat_template_kwargs.of(example.template)
    tokens, mask = run.tokenizer.training_example(
      text, example.response, kwargs
    )
    if len(tokens) > length:
      raise DataError(
        f"an SFT example has {len(tokens)} tokens, more than"
        f" config.sft.row_length={length}; its question begins"
        f" {example.fields['question'][:80]!r}"
      )
    return packing.TokenSequence(tokens, mask)

  return encode


@functools.cache  # it packs all examples
def total_steps(run: Run) -> int:
  """config.sft.steps, or those that train all examples config.sft.epochs times.

  Raises:
    ConfigError: the warm-up leaves none of them to the schedule.
  """
  cfg = run.config.sft
  if cfg.epochs is None:
    return cfg.steps
  batches, steps = _batches(run), 0
  while epochs_of(batches.position()) < cfg.epochs:
    batches.next()
    steps += 1
  log.info("%g epochs of SFT are %d steps", cfg.epochs, steps)
  for problem in cfg.optimizer.too_short(steps):
    raise ConfigError(f"config.sft.{problem}")
  return steps


def epochs_of(position: dict[str, int]) -> float:
  return position["epoch"] + position["offset"] / position["size"]


def _batches(run: Run, position: dict[str, int] | None = None) -> FullBatches:
  cfg = run.config.sft
  stream = ProblemStream(run.sft_examples, seed=run.config.seed)
  if position is not None:
    stream.restore(position)
  return FullBatches(stream, encoder(run), cfg.batch_rows, cfg.row_length)


def run(run: Run, name: str) -> None:
  """Trains `run.model` for config.sft; resumes from its checkpoint."""
  cfg, steps = run.config.sft, total_steps(run)
  tx, schedule = make_optimizer(cfg.optimizer, steps)
  train_step = step_lib.make_train_step(
    step_lib.sft_objective(run.decoder_config, run.config.teacher),
    tx,
    schedule,
    skip_grad_norm=None,
  )
  with (
    contextlib.closing(Trained(run, name, cfg, steps, tx)) as trained,
    run.reporting(name, start=trained.done, total=steps) as report,
    stopping.held(),
  ):
    batches = _batches(run, trained.saved)

    def tell(step, result, packed, stats, epochs):
      nonlocal told
      means = metrics.Accumulator()
      means.update(result)  # waits for the step
      values = means.result()
      now = time.perf_counter()
      seconds, told = now - told, now
      values["epochs"] = epochs
      values["packing_fill"] = stats.fill
      values["step_seconds"] = seconds
      values["tokens_per_second"] = (
        stats.fill * cfg.batch_rows * cfg.row_length / seconds
      )
      report(step, values, ("loss", "tokens_per_second"))
      trained.look(step, values, packed)

    pending, told = None, time.perf_counter()
    for step in range(trained.done + 1, steps + 1):
      packed, stats = batches.next()
      batch = run.put(packing.split_micro(packed, cfg.micro_batches))
      trained.state, result = train_step(trained.state, batch)
      if pending is not None:
        tell(*pending)  # one step behind: the device is never idle for us
      pending = step, result, packed, stats, epochs_of(batches.position())
      if trained.is_due(step):
        tell(*pending)
        pending = None
        trained.save(step, batches.position)
  run.model = trained.state.model
  run.version += steps
