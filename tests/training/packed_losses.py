"""The packed loss of arrays, divided as a step divides it."""

import jax
import jax.numpy as jnp

from atlas_jax.training import losses
from tests.training import oracle

MAX_TOKENS = 7  # of a completion, what dr_grpo divides by


def loss_of(arrays, **knobs):
  options = oracle.options(**knobs)
  total, _ = losses.grpo_loss(**arrays, options=options)
  one = (jnp.asarray(arrays[n])[None] for n in ("mask", "sequence_weights"))
  return total / losses.grpo_normalizer(*one, options.loss_type, MAX_TOKENS)


def value_and_grad(arrays, **knobs):
  def loss(policy):
    return loss_of({**arrays, "policy": policy}, **knobs)

  return jax.value_and_grad(loss)(jnp.asarray(arrays["policy"]))
