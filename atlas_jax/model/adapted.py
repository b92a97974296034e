"""LoRA (2106.09685): a weight W that stays as it is, and an update s B A.

    merged   x @ round(W + s B A)     the weight that the server is sent: added
             up in float32, rounded once, made anew wherever it is used
    applied  x @ W + s (x @ A) @ B    no gradient of a whole weight exists

Rounding to bfloat16 takes most of a young update away. So a policy that is
sampled from rounded weights must be trained on them, too: GRPO uses `merged`,
whose gradient passes the rounding unchanged; SFT uses `applied`.
"""

import functools
import string
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from atlas_jax.model.attention import matmul_precision
from atlas_jax.sharding import gather

Form = Literal["merged", "applied"]


class Pair(nnx.Module):
  """What is trained of one weight [out.., in..], in float32.

  Args:
    a: [r, in..]; PEFT's lora_A, its input axes apart.
    b: [out.., r]; PEFT's lora_B. All of them may lead with the layers.
    scale: s, which is alpha / r.
  """

  def __init__(self, a: Array, b: Array, scale: float):
    self.a, self.b, self.scale = nnx.Param(a), nnx.Param(b), scale


class Adapted(nnx.Module):
  """Stands in a block where a weight stood; see the module for `form`.

  Indexed with `...` it is the merged weight in float32.
  """

  def __init__(self, weight: nnx.Param, pair: Pair, form: Form):
    self.weight, self.pair, self.form = weight, pair, form

  @property
  def n_out(self) -> int:
    """How many axes of the weight are outputs."""
    return self.weight[...].ndim - self.pair.a[...].ndim + 1

  def __getitem__(self, _) -> Float[Array, "*layers out_in"]:
    return self._merged(self.weight[...], self.pair.a[...], self.pair.b[...])

  def _merged(self, weight: Array, a: Array, b: Array) -> Array:
    n_out, layers = self.n_out, "l" * (b.ndim - self.n_out - 1)
    outs = string.ascii_uppercase[:n_out]
    ins = string.ascii_uppercase[n_out:][: weight.ndim - n_out - len(layers)]
    equation = f"{layers}{outs}z,{layers}z{ins}->{layers}{outs}{ins}"
    update = jnp.einsum(equation, b, a, precision="highest")
    return weight.astype(jnp.float32) + self.pair.scale * update

  def project(
    self, equation: str, x: Float[Array, "..."], embed_axis: int
  ) -> Float[Array, "..."]:
    """x times the weight, of which a device holds a part of `embed_axis`.

    A and B are gathered, and the update is made whole on each device: its
    gradient then travels as that of A and B, not as that of the weight.
    """
    a, b, n_out = self.pair.a[...], self.pair.b[...], self.n_out
    if embed_axis < n_out:
      b = gather(b, "embed", embed_axis)
    else:
      a = gather(a, "embed", embed_axis - n_out + 1)
    whole = functools.partial(gather, name="embed", axis=embed_axis)
    product = functools.partial(jnp.einsum, precision=matmul_precision(x.dtype))
    weight = self.weight[...]
    if self.form == "merged":
      merged = self._merged(whole(weight), a, b)
      return product(equation, x, merged.astype(x.dtype))
    read, weight_axes, written = equation.replace("->", ",").split(",")
    outs, ins = weight_axes[:n_out], weight_axes[n_out:]
    low = product(f"{read},z{ins}->btz", x, a.astype(x.dtype))
    update = product(f"btz,{outs}z->{written}", low, b.astype(x.dtype))
    plain = product(equation, x, whole(weight.astype(x.dtype)))
    return plain + self.pair.scale * update
