"""Moments of the optimizer, and master weights, in the memory of the host.

A step brings those of one layer to the device, updates it and puts them back,
in a loop that carries them: only that form keeps the others where they are.
(Moving the whole tree gains nothing, and what a scan returns is a second copy.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from atlas_jax.model import matrices
from atlas_jax.model.decoder import Decoder

HOST, DEVICE = jax.memory.Space.Host, jax.memory.Space.Device


class Masters(NamedTuple):
  """The state of an optimizer whose weights are on the host, too.

  The device has a copy of those in bfloat16, which is what a step reads.
  """

  inner: optax.OptState
  weights: Decoder  # float32


def device_copy(weights: Decoder) -> Decoder:
  """The copy of master weights that a step reads."""
  return matrices.cast_matrices(weights, jnp.bfloat16)


def put(opt_state: optax.OptState, space: jax.memory.Space) -> optax.OptState:
  """The state with its arrays in a memory; counters stay on the device."""
  return jax.tree.map(
    lambda x: jax.device_put(x, space) if x.ndim else x, opt_state
  )


def placed(
  x: jax.ShapeDtypeStruct, aval: jax.core.ShapedArray
) -> jax.ShapeDtypeStruct:
  """`x` in the memory of `aval`, which a trace has it in."""
  if aval.memory_space != HOST:
    return x
  sharding = x.sharding.with_memory_kind("pinned_host")
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _part(tree: Any, of_blocks: bool) -> Any:
  """The tree with the arrays of all blocks alone, or all others; and counters.

  None stands for those that are left out.
  """

  def keep(path, x):
    in_blocks = any(getattr(key, "name", None) == "blocks" for key in path)
    return x if in_blocks == of_blocks or not x.ndim else None

  return jax.tree_util.tree_map_with_path(keep, tree)


def update(
  tx: optax.GradientTransformationExtraArgs,
  grads: Decoder,
  opt_state: optax.OptState,
  params: Decoder,
  grad_norm: jax.Array,
  good: jax.Array,
) -> tuple[Decoder, optax.OptState]:
  """(weights, state) after an update; the old ones if not good.

  Args:
    tx: from `make_optimizer`.
    grads, params: on the device.
    opt_state: where its moments, and masters if it has any, are on the host,
      the update goes layer by layer.
    grad_norm: global L2, for the clip.
    good: whether there is an update.
  """

  def one(grads, state, params):
    moments, weights = state, params
    if isinstance(state, Masters):
      moments, weights = state
    updates, moments = tx.update(grads, moments, weights, grad_norm=grad_norm)
    weights = optax.apply_updates(weights, updates)
    new = weights, moments
    if isinstance(state, Masters):
      copy = jax.tree.map(lambda w, p: w.astype(p.dtype), weights, params)
      new = copy, Masters(moments, weights)
    return jax.tree.map(
      lambda a, b: jnp.where(good, a, b), new, (params, state)
    )

  spaces = {jax.typeof(x).memory_space for x in jax.tree.leaves(opt_state)}
  if HOST not in spaces:
    return one(grads, opt_state, params)
  grads_of_blocks = _part(grads, True)

  def layer(i, carry):
    params, state = carry

    def at(tree):
      return jax.tree.map(
        lambda x: (
          jax.lax.dynamic_index_in_dim(x, i, keepdims=False) if x.ndim else x
        ),
        tree,
      )

    new_params, new_state = one(
      at(grads_of_blocks), put(at(state), DEVICE), at(params)
    )
    # Counters stay: each layer is of the same update.
    return jax.tree.map(
      lambda old, new: (
        jax.lax.dynamic_update_index_in_dim(old, new, i, 0) if old.ndim else old
      ),
      (params, state),
      (new_params, put(new_state, HOST)),
    )

  blocks = _part((params, opt_state), True)
  n_layers = jax.tree.leaves(blocks[0])[0].shape[0]
  blocks = jax.lax.fori_loop(0, n_layers, layer, blocks)
  params, opt_state = _part((params, opt_state), False)
  params, opt_state = one(_part(grads, False), put(opt_state, DEVICE), params)
  return jax.tree.map(
    lambda x, of_blocks: of_blocks if x is None else x,
    (params, put(opt_state, HOST)),
    blocks,
    is_leaf=lambda x: x is None,
  )
