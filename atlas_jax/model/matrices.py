"""Which parameters are matrices: they are cast and decay, others do not."""

from typing import Any

import jax
from jaxtyping import DTypeLike

from atlas_jax.model.decoder import Decoder
from atlas_jax.model.lora import Adapters


def matrices(model: Decoder | Adapters) -> Any:
  """A tree like `model`: True at matrices, False at norms and biases."""

  def is_matrix(path, _):
    name = path[-2].name  # the attribute; path[-1] is the value of its Param
    return not name.endswith(("norm", "bias"))

  return jax.tree_util.tree_map_with_path(is_matrix, model)


def cast_matrices(
  model: Decoder | Adapters, dtype: DTypeLike
) -> Decoder | Adapters:
  """`model` with matrices of another dtype; norms and biases stay.

  Adapters stay, too: what they add is rounded with its weight, and not before.
  """
  if isinstance(model, Adapters):
    return model

  def cast(is_matrix, x):
    return x.astype(dtype) if is_matrix else x

  return jax.tree.map(cast, matrices(model), model)
