"""What is done about a sampler whose log-probs are not the trainer's.

Tokens were drawn with the sampler's probabilities, the loss is written for the
trainer's: each token's loss is weighted with rho, the bounded ratio of both.
Truncated importance sampling https://fengyao.notion.site/off-policy-rl;
masking IcePop 2510.18855. Names and formulas are those of TRL's GRPOTrainer.

Axes: B rows of a packed batch, T tokens.
"""

from typing import get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atlas_jax.loss_options import Mismatch
from atlas_jax.training.sequences import sequence_sum

Tokens = Float[Array, "B T"]

MISMATCHES = get_args(Mismatch)


def mismatch_log_ratio(old: Tokens, behavior: Tokens, mask: Tokens) -> Tokens:
  """d = (old - behavior) m; 0 where the sampler reported no log-prob (NaN)."""
  difference = jnp.where(mask > 0, jax.lax.stop_gradient(old) - behavior, 0)
  return jnp.where(jnp.isnan(difference), 0, difference)


def mismatch_weights(
  log_ratio: Tokens,
  sequence_ids: Int[Array, "B T"],
  mismatch: str,
  mismatch_min: float,
  mismatch_max: float,
) -> tuple[Tokens, Tokens]:
  """(rho, where rho is not what the log-ratios d say), both [B, T].

    token_*:     rho = exp(d)
    sequence_*:  rho = exp(sum_t d), over the completion of the token
    *_truncate:  rho = clip(rho, mismatch_min, mismatch_max)
    *_mask:      rho = 0 outside of [mismatch_min, mismatch_max]
    none:        rho = 1

  Raises:
    ValueError: an unknown mismatch.
  """
  if mismatch not in MISMATCHES:
    raise ValueError(
      f"unknown mismatch {mismatch!r}; valid: {', '.join(MISMATCHES)}"
    )
  if mismatch == "none":
    return jnp.ones_like(log_ratio), jnp.zeros_like(log_ratio)
  level, action = mismatch.split("_")
  if level == "sequence":
    log_ratio = sequence_sum(log_ratio, sequence_ids)
  ratio = jnp.exp(log_ratio)
  outside = (ratio < mismatch_min) | (ratio > mismatch_max)
  if action == "truncate":
    rho = jnp.clip(ratio, mismatch_min, mismatch_max)
  else:
    rho = jnp.where(outside, 0, ratio)
  return rho, outside.astype(log_ratio.dtype)
