"""AdamW (1711.05101) with warm-up, a schedule and a global-norm clip.

Updates are computed in float32 whatever the dtypes of weights, gradients and
moments. Weights should be float32 too (config.teacher.param_dtype): a bfloat16
weight does not move at a learning rate of 1e-6, since the update is smaller
than half the distance to the next value. A bfloat16 second moment stands still
in the same way where 1 - b2 is below about 1/256.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from atlas_jax.config import OptimizerConfig
from atlas_jax.model import matrices
from atlas_jax.teacher_config import Offload
from atlas_jax.training import offload as offload_lib
from atlas_jax.training.offload import HOST


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
  """Learning rate of update 0, 1, ...

  Linear from 0 over warmup_steps (update n of them has (n + 1) / warmup_steps
  of the peak: none is lost to a rate of 0); then constant, or cosine or linear
  down to final_fraction of the peak at the last of total_steps, of which the
  warm-up leaves some (OptimizerConfig.too_short).
  """
  peak, warmup = config.learning_rate, config.warmup_steps
  steps, final = total_steps - warmup, config.final_fraction
  match config.schedule:
    case "constant":
      after = optax.constant_schedule(peak)
    case "cosine":
      after = optax.cosine_decay_schedule(peak, steps, final)
    case "linear":
      after = optax.linear_schedule(peak, peak * final, steps)
  if warmup == 0:
    return after
  rise = optax.linear_schedule(peak / warmup, peak, warmup - 1)
  return optax.join_schedules([rise, after], [warmup])


def cast(tree: Any, dtype: str) -> Any:
  """The tree with its arrays in `dtype`; counters stay."""
  return jax.tree.map(lambda x: x.astype(dtype) if x.ndim else x, tree)


def make_optimizer(
  config: OptimizerConfig, total_steps: int, offload: Offload = "none"
) -> tuple[optax.GradientTransformationExtraArgs, optax.Schedule]:
  """The transformation, and the schedule it follows (to log it).

  Gradients are clipped by their global norm, which `update` may be given as
  grad_norm. With an offload its state is in the memory of the host, as the
  module offload has it: `offload.update` then takes the place of its update.
  Gradients and weights are of any float dtype, the moments that it keeps of
  config.moments_dtype, updates float32.
  Weight decay is on matrices only: see `matrices.matrices`.
  """
  schedule = make_schedule(config, total_steps)
  chain = optax.chain(
    optax.identity(),  # held the clip; checkpoints know the places
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
    optax.add_decayed_weights(config.weight_decay, mask=matrices.matrices),
    optax.scale_by_learning_rate(schedule),
  )

  def init(params):
    masters = cast(params, "float32")
    state = cast(chain.init(masters), config.moments_dtype)
    if offload == "masters":
      state = offload_lib.Masters(state, masters)
    return state if offload == "none" else offload_lib.put(state, HOST)

  def update(grads, state, params, *, grad_norm=None):
    grads = cast(grads, "float32")
    if grad_norm is None:
      grad_norm = optax.tree.norm(grads)
    below = grad_norm < config.clip_norm
    grads = jax.tree.map(
      lambda g: jnp.where(below, g, g / grad_norm * config.clip_norm), grads
    )
    state, params = cast((state, params), "float32")
    updates, state = chain.update(grads, state, params)
    return updates, cast(state, config.moments_dtype)

  return optax.GradientTransformationExtraArgs(init, update), schedule


def updates_done(opt_state: optax.OptState) -> jax.Array:
  """How many updates were applied: skipped ones do not count."""
  return optax.tree.get(
    opt_state, "count", filtering=lambda path, _: "ScaleByAdam" in str(path)
  )
