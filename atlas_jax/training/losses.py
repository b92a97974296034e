"""SFT and GRPO losses: arrays in, (sum, count) out. No model, no config.

Formulas and signs follow TRL's GRPOTrainer; papers: GRPO 2402.03300, DAPO
(clip-higher, token-level mean) 2503.14476, k3 http://joschu.net/blog/
kl-approx.html, truncated importance sampling of the sampler's mismatch
https://fengyao.notion.site/off-policy-rl.

Which log-probs, all of the sampled token, all at the sampling temperature:
  policy     under the parameters that are differentiated
  old        under the parameters that the update started from
  behavior   what the sampling engine reported
  reference  under the reference parameters

Axes: B rows of a packed batch, T tokens. Mask 1 means: this token is trained.
Entries of masked tokens may hold anything, NaN included; they reach neither
the loss nor its gradient. Sums are over this micro-batch, normalisers over the
whole batch, so they are the caller's: see `grpo_normalizer`.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Tokens = Float[Array, "B T"]
Scalar = Float[Array, ""]

LOSS_TYPES = ("grpo", "dapo")
MISMATCHES = ("none", "token_truncate")


class Metrics(NamedTuple):
  """What micro-batches, devices and hosts add up to one number.

  sums: name -> (sum, count), added. maxima: name -> value, the larger kept.
  """

  sums: dict[str, tuple[Scalar, Scalar]]
  maxima: dict[str, Scalar]


def combine(a: Metrics, b: Metrics) -> Metrics:
  """The metrics of two disjoint parts of a batch together."""
  return Metrics(
    jax.tree.map(jnp.add, a.sums, b.sums),
    jax.tree.map(jnp.maximum, a.maxima, b.maxima),
  )


def _one_of(value: str, valid: tuple[str, ...], what: str) -> None:
  if value not in valid:
    raise ValueError(f"unknown {what} {value!r}; valid: {', '.join(valid)}")


def _real(x: Tokens, mask: Tokens) -> Tokens:
  # Before any exp: a NaN or an overflow under the mask would otherwise come
  # back through the gradient of the product.
  return jnp.where(mask > 0, x, 0)


def sft_loss(logprobs: Tokens, mask: Tokens) -> tuple[Scalar, Scalar]:
  """Negative log-likelihood: (-sum_t m * logprob, sum_t m), in nats, tokens."""
  chex.assert_equal_shape([logprobs, mask])
  return -jnp.sum(_real(logprobs, mask)), jnp.sum(mask)


def k3(log_ratio: Tokens) -> Tokens:
  """exp(x) - x - 1 >= 0 of x = log q - log p, tokens drawn from p.

  An unbiased estimate of KL(p || q). As a loss its gradient with respect to
  log p is 1 - exp(x), zero in expectation at p = q only.
  """
  return jnp.exp(log_ratio) - log_ratio - 1


def clipped_surrogate(
  ratio: Tokens, advantages: Tokens, eps_low: float, eps_high: float
) -> Tokens:
  """-min(c1 A, clip(c1, 1 - eps_low, 1 + eps_high) A), c1 the ratio."""
  clipped = jnp.clip(ratio, 1 - eps_low, 1 + eps_high)
  return -jnp.minimum(ratio * advantages, clipped * advantages)


def mismatch_log_ratio(old: Tokens, behavior: Tokens, mask: Tokens) -> Tokens:
  """d = (old - behavior) m; 0 where the sampler reported no log-prob (NaN)."""
  difference = _real(jax.lax.stop_gradient(old) - behavior, mask)
  return jnp.where(jnp.isnan(difference), 0, difference)


def mismatch_weights(
  log_ratio: Tokens, mismatch: str, mismatch_max: float
) -> Tokens:
  """rho, what each token's loss is multiplied with for sampler != trainer.

  none: 1. token_truncate: min(exp(d), mismatch_max).
  """
  _one_of(mismatch, MISMATCHES, "mismatch")
  if mismatch == "none":
    return jnp.ones_like(log_ratio)
  return jnp.minimum(jnp.exp(log_ratio), mismatch_max)


def token_weights(
  mask: Tokens, sequence_weights: Tokens, loss_type: str
) -> Tokens:
  """What each token's loss counts in the sum.

  dapo: m (every token alike). grpo: m / (trained tokens of its completion).
  """
  _one_of(loss_type, LOSS_TYPES, "loss_type")
  return mask if loss_type == "dapo" else mask * sequence_weights


def grpo_normalizer(
  mask: Tokens, sequence_weights: Tokens, loss_type: str
) -> Scalar:
  """What the whole batch's sum is divided by, at least 1.

  dapo: trained tokens. grpo: completions, those without a trained token
  included. Must see the whole batch: all micro-batches, devices and hosts.
  """
  _one_of(loss_type, LOSS_TYPES, "loss_type")
  # Rounded: the weights of a completion add up to 1 but for their last bits.
  count = mask if loss_type == "dapo" else sequence_weights
  return jnp.maximum(jnp.round(jnp.sum(count)), 1)


def grpo_loss(
  policy: Tokens,
  old: Tokens,
  behavior: Tokens,
  reference: Tokens | None,
  advantages: Tokens,
  mask: Tokens,
  sequence_weights: Tokens,
  *,
  loss_type: str,
  eps_low: float,
  eps_high: float,
  beta: float,
  mismatch: str,
  mismatch_max: float,
  entropy: Tokens | None = None,
) -> tuple[Scalar, Metrics]:
  """Sum over this micro-batch of the GRPO loss, and what to log.

    c1 = exp(policy - old)
    l  = -min(c1 A, clip(c1, 1 - eps_low, 1 + eps_high) A)
    l  = l * rho(old - behavior)          see mismatch_weights
    l  = l + beta * k3(reference - policy)      not multiplied by rho
    sum_t l * w                           see token_weights

  Divide by `grpo_normalizer` of the whole batch. With one update per batch
  pass old = stop_gradient(policy): the ratio is 1 and its gradient remains.

  reference may be None when beta is 0; given, its KL is logged either way.
  entropy, of the policy's distribution at each token, is only logged.

  Raises:
    ValueError: an unknown loss_type or mismatch, or beta > 0 without a
      reference.
  """
  given = [policy, old, behavior, advantages, mask, sequence_weights]
  given += [x for x in (reference, entropy) if x is not None]
  chex.assert_equal_shape(given)
  chex.assert_type(given, float)
  weights = token_weights(mask, sequence_weights, loss_type)

  ratio = jnp.exp(_real(policy - old, mask))
  loss = clipped_surrogate(ratio, advantages, eps_low, eps_high)
  mismatch_d = mismatch_log_ratio(old, behavior, mask)
  loss *= mismatch_weights(mismatch_d, mismatch, mismatch_max)
  kl = None
  if reference is not None:
    kl = k3(_real(reference - policy, mask))
    if beta > 0:
      loss += beta * kl
  elif beta > 0:
    raise ValueError(f"beta={beta} needs the reference's log-probs")
  total = jnp.sum(_real(loss, mask) * weights)

  tokens = jnp.sum(mask)
  low = (ratio < 1 - eps_low) & (advantages < 0)
  high = (ratio > 1 + eps_high) & (advantages > 0)
  logged = {
    "ratio_mean": ratio,
    "clip_fraction_low": low,
    "clip_fraction_high": high,
    "mismatch_kl": k3(mismatch_d),
  }
  if kl is not None:
    logged["kl"] = kl
  if entropy is not None:
    logged["entropy"] = entropy
  metrics = Metrics(
    sums={
      name: (jnp.sum(_real(x.astype(mask.dtype), mask)), tokens)
      for name, x in logged.items()
    },
    maxima={
      "ratio_max": jnp.max(_real(ratio, mask)),
      "mismatch_max": jnp.max(jnp.abs(mismatch_d)),
    },
  )
  return total, jax.lax.stop_gradient(metrics)
