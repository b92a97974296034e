"""The programs of training phases; what a GRPO step does with its batch."""

import functools
from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh

from atlas_jax import metrics, sharding
from atlas_jax.config import GrpoConfig, RunConfig, SftConfig
from atlas_jax.model import lora
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.phases.teacher import Teacher
from atlas_jax.training import scoring
from atlas_jax.training import step as step_lib
from atlas_jax.training.optimizer import make_optimizer

_COMPILED = "/jax/core/compile/backend_compile_duration"


@functools.cache  # JAX forgets no listener
def _compilations() -> list[float]:
  """Seconds of each program that JAX has compiled since the first call."""
  seconds = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, s, **_: event == _COMPILED and seconds.append(s)
  )
  return seconds


def most_rows(cfg: SftConfig | GrpoConfig) -> int:
  """Of a batch; in GRPO one for every teaching."""
  if isinstance(cfg, SftConfig):
    return cfg.batch_rows
  return cfg.problems_per_step * cfg.group_size


def rows_at_once(cfg: SftConfig | GrpoConfig, mesh: Mesh) -> int:
  """Rows of a micro-batch over all devices."""
  return sharding.rows_at_once(most_rows(cfg), cfg.rows_per_device, mesh)


def make_update(
  config: RunConfig,
  cfg: SftConfig | GrpoConfig,
  architecture: DecoderConfig,
  updates: int,
) -> tuple[optax.GradientTransformation, Callable]:
  """(the optimizer, the jitted train step) of a phase; see step.py.

  Args:
    config: of the run.
    cfg: the part of it that is about the phase.
    architecture: of the teacher.
    updates: that the phase has, for the schedule.
  """
  tx, schedule = make_optimizer(cfg.optimizer, updates, config.teacher.offload)
  if isinstance(cfg, SftConfig):
    objective, skip = step_lib.sft_objective(architecture, config.teacher), None
  else:
    skip = cfg.skip_grad_norm
    objective = step_lib.grpo_objective(
      architecture,
      config.teacher,
      cfg,
      temperature=config.episode.teacher_temperature,
      max_completion_tokens=config.episode.max_teaching_tokens,
    )
  return tx, step_lib.make_train_step(
    objective,
    tx,
    schedule,
    skip_grad_norm=skip,
    grad_dtype=cfg.optimizer.grad_dtype,
  )


def make_grpo_step(
  config: RunConfig, teacher: Teacher
) -> tuple[optax.GradientTransformation, Callable]:
  """(the optimizer, train_step).

  train_step(state, reference, packed [B, T]) -> (state, numbers to log): the
  config.grpo.epochs updates on one batch. The state passed in is donated.
  """
  cfg, temperature = config.grpo, config.episode.teacher_temperature
  model = teacher.decoder_config, teacher.options
  tx, update = make_update(
    config, cfg, teacher.decoder_config, cfg.steps * cfg.epochs
  )
  prepare = scoring.make_prepare_step(*model, cfg, temperature=temperature)
  score = scoring.make_score_step(*model, temperature=temperature)
  at_once = rows_at_once(cfg, teacher.mesh)
  compiled = len(_compilations())

  def train_step(state, reference, packed):
    nonlocal compiled
    # In the shape of the largest batch: all share their programs.
    parts, most = len(packed.tokens) // at_once, -(-most_rows(cfg) // at_once)
    batch = teacher.put(packed, parts, most)
    if reference is not None:
      frozen = lora.join(state.base, reference)
      batch = batch._replace(ref_logprobs=score(frozen, batch))
    batch = prepare(state.model, batch)
    results = []
    for _ in range(cfg.epochs):
      state, result = update(state, batch)
      results.append(result)
    numbers = metrics.means(results)  # waits for them
    before, compiled = compiled, len(_compilations())
    return state, {**numbers, "programs_compiled": compiled - before}

  return tx, train_step
