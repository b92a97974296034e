"""Packed rows written by hand, and all their logits at once."""

import jax.numpy as jnp
import numpy as np

from atlas_jax.config import ModelConfig
from atlas_jax.data.packing import PackedBatch

# In float32, with everything kept for the backward pass.
PLAIN = ModelConfig(compute_dtype="float32", remat="none")


def batch_of(tokens, segments, sequences, positions, mask=None) -> PackedBatch:
  """Arrays [B, T]; without a mask no log-prob is wanted, the rest is 0."""
  zeros = np.zeros(np.shape(tokens), np.float32)
  mask = zeros if mask is None else mask
  return PackedBatch(
    *(tokens, segments, sequences, positions, mask), *[zeros] * 5
  )


def logits(model, config, hidden):
  """[B, T, V] in float32; the head is read in the dtype of `hidden`."""
  head = (model.embedding if config.tied else model.head)[...]
  return jnp.einsum(
    *("btd,vd->btv", hidden, head.astype(hidden.dtype)),
    precision="highest",
    preferred_element_type=jnp.float32,
  )
