"""GRPO on how much the teaching improves the frozen student.

One step: sample episodes with the published weights, score them, update on
the packed teachings, publish the new weights. What is sampled when, and with
which weights: rollouts.py. What an update is: trainer.py.
"""

import contextlib
import logging
import resource
import time

from atlas_jax import stopping
from atlas_jax.config import GrpoConfig
from atlas_jax.phases.rollouts import Rollouts, as_sequence
from atlas_jax.phases.run import Run
from atlas_jax.phases.trainer import Trainer
from atlas_jax.teaching.answers import AnswerChecker

log = logging.getLogger(__name__)

SHOWN = (
  "reward_mean",
  "accuracy_alone",
  "accuracy_taught",
  "tokens_per_second",
)


def _warn(cfg: GrpoConfig) -> None:
  if cfg.beta > 0 and cfg.ref_ema_alpha >= 0.5 and cfg.ref_ema_every <= 4:
    log.warning(
      "config.grpo.ref_ema_alpha=%g every %d steps moves the reference along"
      " with the policy: the KL penalty hardly holds anything",
      cfg.ref_ema_alpha,
      cfg.ref_ema_every,
    )


def run(run: Run, name: str) -> None:
  """Trains `run.model` for config.grpo.steps; resumes from its checkpoint."""
  cfg = run.config.grpo
  _warn(cfg)
  before = run.version
  with contextlib.closing(Trainer(run, name)) as trainer:
    run.model, run.version = trainer.state.model, before + trainer.done
    if trainer.done < cfg.steps:
      _train(run, name, trainer, before)


def _train(run: Run, name: str, trainer: Trainer, before: int) -> None:
  """The steps that are left; `before` updates were made by other phases."""
  cfg = run.config.grpo
  problems, flat = run.splits.train, 0
  if len(problems) < cfg.problems_per_step:
    log.warning(
      "there are %d training problems, config.grpo.problems_per_step=%d: a step"
      " has the same problem more than once",
      len(problems),
      cfg.problems_per_step,
    )
  run.publish()
  with (
    AnswerChecker(data=run.config.data) as checker,
    Rollouts(
      run, problems, name, checker, trainer.done, trainer.saved
    ) as batches,
    run.reporting(name, start=trainer.done, total=cfg.steps) as report,
    stopping.held(),
  ):
    for step in range(trainer.done + 1, cfg.steps + 1):
      begin = time.perf_counter()
      try:
        rollouts, numbers = batches.next(step)
      except stopping.Stopped:
        if step > 1:
          trainer.save(step - 1, batches.state)
        raise
      batches.sample_ahead(step + 1)
      training = time.perf_counter()
      flat = 0 if rollouts else flat + 1
      if flat and flat % cfg.max_skipped_steps == 0:
        log.warning(
          "the last %d steps had only groups of equal rewards, which teach"
          " nothing; look at their episodes: the problems may be too hard or"
          " too easy",
          flat,
        )
      if any(r["trained"] for r in rollouts):
        sequences = [as_sequence(r) for r in rollouts]
        numbers |= trainer.update(step, sequences)
      trained = time.perf_counter()
      batches.wait()
      run.model, run.version = trainer.state.model, before + step
      # A signal here is heard in finish_step; the next start publishes.
      with contextlib.suppress(stopping.Stopped):
        numbers |= run.publish()
      seconds = time.perf_counter() - begin
      numbers |= {
        "train_seconds": trained - training,
        "step_seconds": seconds,
        "tokens_per_second": numbers["teacher_tokens_sum"] / seconds,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / 1e6,
      }
      # In this order: a step that a checkpoint holds has been told of.
      report(step, numbers, SHOWN)
      trainer.finish_step(step, batches.state)
