"""Log-probs of the tokens of packed rows, without logits for all of them.

Axes: B rows, T tokens, D model, V vocabulary, C tokens of a chunk.

Each device takes the tokens it holds, C at a time: [C, V] logits in float32,
log-softmax, the label's entry; the backward pass computes each chunk again.
With a vocabulary cut over the mesh, a device holds [C, V/tensor] and the sums
over the vocabulary are added up across devices.
"""

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from atlas_jax.model.attention import matmul_precision
from atlas_jax.sharding import layout, place, spec

if TYPE_CHECKING:
  from atlas_jax.model.architecture import DecoderConfig
  from atlas_jax.model.decoder import Decoder


def token_logprobs(
  model: "Decoder",
  config: "DecoderConfig",
  hidden: Float[Array, "B T D"],
  tokens: Int[Array, "B T"],
  sequence_ids: Int[Array, "B T"],
  *,
  temperature: float,
  chunk: int,
  with_entropy: bool = False,
):
  """log p(token t | the tokens before it in its sequence), aligned to tokens.

  Args:
    model: parameters; the head is read in the dtype of `hidden`, products and
      everything after are float32.
    config: what `model` was built from.
    hidden: from `forward`.
    tokens: packed rows.
    sequence_ids: 0 is padding, or a prompt that sequences share.
    temperature: logits are divided by it.
    chunk: tokens whose logits exist at one time on a device.
    with_entropy: also return the entropy (nats) of each distribution.

  Returns:
    float32 [B, T]: 0 where the token before is of another sequence, at padding
    and in shared prompts. With `with_entropy` a pair (logprobs, entropy).
  """
  sequence_ids = place(sequence_ids, "batch", None)
  tokens = place(tokens, "batch", None)
  # hidden[t] predicts token t + 1: score the next token, then shift back.
  labels = place(_shift(tokens, -1), "batch", "tokens")
  local = functools.partial(
    _chunked, chunk=chunk, dtype=hidden.dtype, with_entropy=with_entropy
  )
  head = _head(model, config).astype(hidden.dtype)
  temperature = jnp.asarray(temperature, jnp.float32)
  if jax.sharding.get_abstract_mesh().empty:
    scores = local(head, hidden, labels, temperature, vocab_axis=None)
  else:
    rows = spec("batch", "tokens")

    def sharded(head, hidden, labels, temperature):
      head = jax.lax.all_gather(head, "fsdp", axis=1, tiled=True)
      # Varying before the scan: its gradient is summed over devices once,
      # not once a chunk.
      head = jax.lax.pcast(head, ("data", "context"), to="varying")
      return local(head, hidden, labels, temperature, vocab_axis="tensor")

    scores = jax.shard_map(
      sharded,
      in_specs=(spec("vocab", "embed"), P(*rows, None), rows, P()),
      out_specs=(rows, rows) if with_entropy else (rows,),
    )(head, hidden, labels, temperature)

  predicted = (sequence_ids == _shift(sequence_ids, 1)) & (sequence_ids != 0)
  scores = tuple(
    jnp.where(predicted, _shift(place(s, "batch", None), 1), 0.0)
    for s in scores
  )
  return scores if with_entropy else scores[0]


def logits(
  model: "Decoder", config: "DecoderConfig", hidden: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
  """All logits in float32: small shapes only."""
  head = place(_head(model, config).astype(hidden.dtype), "vocab", None)
  return jnp.einsum(
    "btd,vd->btv",
    hidden,
    head,
    precision=matmul_precision(hidden.dtype),
    preferred_element_type=jnp.float32,
    out_sharding=layout("batch", "tokens", "vocab"),
  )


def _head(model: "Decoder", config: "DecoderConfig") -> Float[Array, "V D"]:
  return model.embedding[...] if config.tied else model.head[...]


def _shift(x: Array, by: int) -> Array:
  """x[:, t - by], and 0 beyond the row's ends (by is 1 or -1)."""
  if by == 1:
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)))
  return jnp.pad(x[:, 1:], ((0, 0), (0, 1)))


def _chunked(
  head: Float[Array, "V D"],
  hidden: Float[Array, "B T D"],
  labels: Int[Array, "B T"],
  temperature: Float[Array, ""],
  *,
  chunk: int,
  dtype: jnp.dtype,
  with_entropy: bool,
  vocab_axis: str | None,
) -> tuple[Float[Array, "B T"], ...]:
  """(log-probs of labels,) or (log-probs, entropies) of one device's tokens."""
  b, t, d = hidden.shape
  size = min(chunk, b * t)
  n = -(-b * t // size)
  pad = n * size - b * t
  hidden = jnp.pad(hidden.reshape(b * t, d), ((0, pad), (0, 0)))
  labels = jnp.pad(labels.reshape(b * t), (0, pad))
  offset = 0
  if vocab_axis is not None:
    offset = jax.lax.axis_index(vocab_axis) * head.shape[0]
  # The chunks' gradients of the head add up in float32, whatever `dtype` is.
  head = head.astype(jnp.float32)

  def total(x):
    return x if vocab_axis is None else jax.lax.psum(x, vocab_axis)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def score(hidden, labels):
    x = jnp.einsum(
      "cd,vd->cv",
      hidden,
      head.astype(dtype),
      precision=matmul_precision(dtype),
      preferred_element_type=jnp.float32,
    )
    x = x / temperature
    top = jax.lax.stop_gradient(jnp.max(x, axis=-1))
    if vocab_axis is not None:
      top = jax.lax.pmax(top, vocab_axis)
    exp = jnp.exp(x - top[:, None])
    z = total(jnp.sum(exp, axis=-1))
    log_z = jnp.log(z) + top
    ids = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) + offset
    at_label = jnp.where(ids == labels[:, None], x, 0.0)
    logprob = total(jnp.sum(at_label, axis=-1)) - log_z
    if not with_entropy:
      return (logprob,)
    return logprob, log_z - total(jnp.sum(exp * x, axis=-1)) / z

  _, scores = jax.lax.scan(
    lambda carry, xs: (carry, score(*xs)),
    None,
    (hidden.reshape(n, size, d), labels.reshape(n, size)),
  )
  return tuple(s.reshape(-1)[: b * t].reshape(b, t) for s in scores)
