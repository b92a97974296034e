"""Sums over the sequences of packed rows.

A row holds several sequences, numbered 1, 2, ... by `sequence_ids`; 0 marks
padding and tokens that belong to no single sequence. Sequences never span
rows, so a device that holds whole rows needs nothing from another.

Axes: B rows, T tokens.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atlas_jax.sharding import has_mesh, spec


def sequence_sum(
  x: Float[Array, "B T"], sequence_ids: Int[Array, "B T"]
) -> Float[Array, "B T"]:
  """The sum of x over the sequence of each token; 0 where the id is 0."""

  def row(x, ids):
    # A row of T tokens has at most T sequences.
    sums = jax.ops.segment_sum(x, ids, num_segments=x.shape[0] + 1)
    return jnp.where(ids > 0, sums[ids], 0)

  rows = jax.vmap(row)
  if has_mesh():  # a gather along a row: each device does its own rows
    layout = spec("batch", None)
    rows = jax.shard_map(rows, in_specs=(layout, layout), out_specs=layout)
  return rows(x, sequence_ids)


def sequence_mean(
  x: Float[Array, "B T"],
  mask: Float[Array, "B T"],
  sequence_ids: Int[Array, "B T"],
) -> Float[Array, "B T"]:
  """sum_t m x / max(sum_t m, 1) over the sequence of each token."""
  total = sequence_sum(x * mask, sequence_ids)
  return total / jnp.maximum(sequence_sum(mask, sequence_ids), 1)
