"""What a GRPO step changes: the state, its reference, their checkpoints."""

import functools
import itertools
import logging
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from atlas_jax import checkpoint, files, metrics, multihost, sharding
from atlas_jax.config import GrpoConfig
from atlas_jax.data import packing
from atlas_jax.phases.run import Run
from atlas_jax.stopping import Stopped
from atlas_jax.training import step as step_lib
from atlas_jax.training.optimizer import make_optimizer

log = logging.getLogger(__name__)

_COMPILED = "/jax/core/compile/backend_compile_duration"


class TrainingError(RuntimeError):
  """Training makes no progress any more; the text says where to look."""


class Skipped:
  """Stops a phase of so many `steps` when all of them, or `most` in a row,
  are left out. `count` of them were when it was saved."""

  def __init__(self, run: Run, name: str, most: int, steps: int, count: int):
    self._folder, self._name = run.workdir / "failed", name
    self._most, self.count = min(most, steps), count

  def look(
    self, step: int, numbers: dict[str, float], packed: packing.PackedBatch
  ) -> None:
    """Counts the update of a step.

    Raises:
      TrainingError: too many were left out; the last batch is in failed/.
    """
    self.count = self.count + 1 if numbers["update_skipped"] == 1 else 0
    if numbers["update_skipped"] > 0:
      log.warning(
        "step %d: gradient norm %g, update left out",
        step,
        numbers["grad_norm"],
      )
    if self.count < self._most:
      return
    path = self._folder / f"{self._name}_{step}.npz"
    multihost.call_on_lead(lambda: _save(path, packed))
    raise TrainingError(
      f"the updates of {self.count} steps in a row were left out, the last"
      f" with gradient norm {numbers['grad_norm']:g}; its batch is {path}."
      " NaN: look at its log-probs, the learning rate and the weights that it"
      " began with; too large: see config.grpo.skip_grad_norm"
    )


def row_bucket(
  sequences: Sequence[packing.Sequence], cfg: GrpoConfig, unit: int
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


class Trainer:
  """The state of a GRPO phase; restored from its latest checkpoint, if any.

  Attributes:
    state: TrainState.
    done: steps that are done.
    saved: what `finish_step` was given with the checkpoint; None without one.
  """

  def __init__(self, run: Run, name: str):
    self._run, self._cfg, self._name = run, run.config.grpo, name
    cfg = self._cfg
    tx, schedule = make_optimizer(cfg.optimizer, cfg.steps * cfg.epochs)
    self._checkpoints = checkpoint.of_phase(run.config, run.workdir, name)
    self._programs = programs()
    self._programs.take()
    skipped, self.done = 0, 0
    self.saved = None
    self.reference = None
    if self._checkpoints.latest() is not None:
      like = step_lib.as_trees(run.abstract_state(tx))
      if cfg.beta > 0:
        like["reference"] = like["model"]
      trees, extra = self._checkpoints.restore(like)
      self.done = self._checkpoints.restored
      self.state = step_lib.from_trees(trees)
      if cfg.beta > 0:
        self.reference = trees["reference"]
      self.saved, skipped = extra["rollouts"], extra["skipped"]
      log.info("%s continues from step %d of %d", name, self.done, cfg.steps)
    else:
      self.state = step_lib.init_state(run.model, tx)
      if cfg.beta > 0:
        self.reference = step_lib.copy_model(run.model)
    self._skipped = Skipped(
      run, name, cfg.max_skipped_steps, cfg.steps, skipped
    )
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
    self, sequences: Sequence[packing.Sequence]
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
    self, step: int, sequences: Sequence[packing.Sequence]
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
    self._skipped.look(step, numbers, packed)
    return {
      **numbers,
      "packing_fill": stats.fill,
      "packing_shared_tokens": stats.shared_tokens,
      "packed_rows": stats.rows,
      "programs_compiled": self._programs.take(),
    }

  def finish_step(
    self, step: int, state_of_rollouts, stopped: Stopped | None = None
  ) -> None:
    """After an update: the reference's turn, then a checkpoint if due.

    Args:
      step: that is done.
      state_of_rollouts: called only for a checkpoint; its JSON goes along.
      stopped: a signal that has come already.

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
    stopped = stopped or multihost.stop_asked()
    if stopped or step % cfg.checkpoint_every == 0 or step == cfg.steps:
      self.save(step, state_of_rollouts)
    if stopped:
      raise stopped

  def save(self, step: int, state_of_rollouts) -> None:
    """Saves what there is after `step`, if it is not saved already."""
    if self._checkpoints.latest() == step:
      return
    trees = step_lib.as_trees(self.state)
    if self.reference is not None:
      trees["reference"] = self.reference
    extra = {"rollouts": state_of_rollouts(), "skipped": self._skipped.count}
    self._checkpoints.save(step, trees, extra)

  def close(self) -> None:
    self._checkpoints.close()


def _save(path: pathlib.Path, packed: packing.PackedBatch) -> None:
  with files.replacing(path) as file:
    np.savez(file, **packed._asdict())
