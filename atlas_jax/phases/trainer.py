"""What a GRPO step changes: the state and its reference."""

import functools
import itertools
from collections.abc import Sequence

import jax

from atlas_jax import metrics, sharding
from atlas_jax.config import GrpoConfig
from atlas_jax.data import packing
from atlas_jax.phases.run import Run
from atlas_jax.phases.trained import Trained
from atlas_jax.training import step as step_lib
from atlas_jax.training.optimizer import make_optimizer

_COMPILED = "/jax/core/compile/backend_compile_duration"


def row_bucket(
  sequences: Sequence[packing.TokenSequence], cfg: GrpoConfig, unit: int
) -> int:
  """Rows to pack into: few different numbers, so few compilations.

  unit * (1, ..., 8, 10, 12, 14, 16, 20, 24, ...), the first that holds them.
  """
  rows = packing.plan_rows(
    sequences, length=cfg.row_length, share_prompts=cfg.share_prompts
  )
  need = len(rows)
  larger = (m << k for k in itertools.count() for m in (4, 5, 6, 7))
  sizes = itertools.chain((1, 2, 3), larger)
  return unit * next(n for n in sizes if unit * n >= need)


class Programs:
  """Counts the programs that JAX made since the last look.

  JAX forgets no listener: take the one of `programs`.
  """

  def __init__(self):
    self._made = 0
    jax.monitoring.register_event_duration_secs_listener(self._listen)

  def _listen(self, event: str, duration: float, **_) -> None:
    self._made += event == _COMPILED

  def take(self) -> int:
    made, self._made = self._made, 0
    return made


programs = functools.cache(Programs)


class Trainer(Trained):
  """The state of a GRPO phase, and its updates."""

  def __init__(self, run: Run, name: str):
    cfg = run.config.grpo
    tx, schedule = make_optimizer(cfg.optimizer, cfg.steps * cfg.epochs)
    super().__init__(run, name, cfg, cfg.steps, tx, reference=cfg.beta > 0)
    self._programs = programs()
    self._programs.take()
    temperature = run.config.episode.teacher_temperature
    self._train = step_lib.make_train_step(
      step_lib.grpo_objective(
        run.decoder_config,
        run.config.teacher,
        cfg,
        temperature=temperature,
        max_completion_tokens=run.config.episode.max_teaching_tokens,
      ),
      tx,
      schedule,
      skip_grad_norm=cfg.skip_grad_norm,
    )
    self._prepare = step_lib.make_prepare_step(
      run.decoder_config, run.config.teacher, cfg, temperature=temperature
    )
    self._score = step_lib.make_score_step(
      run.decoder_config, run.config.teacher, temperature=temperature
    )

  def packed(
    self, sequences: Sequence[packing.TokenSequence]
  ) -> tuple[packing.PackedBatch, packing.PackingStats]:
    """The rows that `update` trains on, [B, T]."""
    cfg = self._cfg
    unit = cfg.micro_batches * sharding.batch_shards(self._run.mesh)
    return packing.pack(
      sequences,
      length=cfg.row_length,
      rows_multiple=row_bucket(sequences, cfg, unit),
      share_prompts=cfg.share_prompts,
    )

  def update(
    self, step: int, sequences: Sequence[packing.TokenSequence]
  ) -> dict[str, float]:
    """The updates of one step, cfg.epochs of them; numbers to log.

    Raises:
      TrainingError: cfg.max_skipped_steps in a row were not applied; the
        batch of the last is in failed/.
    """
    cfg = self._cfg
    packed, stats = self.packed(sequences)
    batch = self._run.put(packing.split_micro(packed, cfg.micro_batches))
    if self.reference is not None:
      batch = batch._replace(ref_logprobs=self._score(self.reference, batch))
    batch = self._prepare(self.state.model, batch)
    results = []
    for _ in range(cfg.epochs):
      self.state, result = self._train(self.state, batch)
      results.append(result)
    means = metrics.Accumulator()
    for result in results:  # waits for it
      means.update(result)
    numbers = means.result()
    self.look(step, numbers, packed)
    return {
      **numbers,
      "packing_fill": stats.fill,
      "packing_shared_tokens": stats.shared_tokens,
      "packed_rows": stats.rows,
      "programs_compiled": self._programs.take(),
    }

  def finish_step(self, step: int, state_of_rollouts) -> None:
    """After an update: the reference's turn, then a checkpoint if due.

    Args:
      step: that is done.
      state_of_rollouts: called only for a checkpoint; its JSON goes along.

    Raises:
      Stopped: a signal came to any process; the step is saved.
    """
    cfg = self._cfg
    if (
      self.reference is not None
      and cfg.ref_ema_alpha > 0
      and step % cfg.ref_ema_every == 0
    ):
      self.reference = step_lib.ema_update(
        self.reference, self.state.model, cfg.ref_ema_alpha
      )
    if self.is_due(step):
      self.save(step, state_of_rollouts)
