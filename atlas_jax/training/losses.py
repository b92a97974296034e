"""SFT and GRPO losses: arrays in, (sum, count) out. No model, no config tree.

Formulas and signs follow TRL's GRPOTrainer; papers: GRPO 2402.03300, DAPO
(clip-higher, token-level mean) 2503.14476, Dr. GRPO 2503.20783, CISPO
2506.13585, SAPO 2511.20347, GSPO (sequence ratio) 2507.18071, two-sided clip
2505.07291, entropy quantile 2506.01939, k3 http://joschu.net/blog/
kl-approx.html.

Which log-probs, all of the sampled token, all at the sampling temperature:
  policy     under the parameters that are differentiated
  old        under the parameters that the update started from
  behavior   what the sampling engine reported
  reference  under the reference parameters

Axes: B rows of a packed batch, T tokens, M micro-batches. Mask 1 means: this
token is trained; such a token has a sequence id above 0. Entries of masked
tokens may hold anything, NaN included; they reach neither the loss nor its
gradient. Sums are over this micro-batch, normalisers over the whole batch, so
they are the caller's: see `grpo_normalizer`.
"""

from typing import NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atlas_jax.loss_options import LossOptions, LossType, RatioLevel
from atlas_jax.training.mismatch import mismatch_log_ratio, mismatch_weights
from atlas_jax.training.sequences import sequence_mean

Tokens = Float[Array, "B T"]
Scalar = Float[Array, ""]

LOSS_TYPES = get_args(LossType)
RATIO_LEVELS = get_args(RatioLevel)
# Temperatures of the soft gate for advantages above 0, and for all others.
SAPO_TAU = (1.0, 1.05)


class Metrics(NamedTuple):
  """What micro-batches, devices and hosts add up to one number.

  sums: name -> (sum, count), added. maxima: name -> value, the larger kept.
  """

  sums: dict[str, tuple[Scalar, Scalar]]
  maxima: dict[str, Scalar]


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


def policy_ratio(
  policy: Tokens,
  old: Tokens,
  mask: Tokens,
  sequence_ids: Int[Array, "B T"],
  ratio_level: str,
) -> Tokens:
  """c1, what the policy has become more likely by since the update began.

  token: exp(policy - old). sequence: exp of its mean over the completion's
  trained tokens, the same number on each of them.
  """
  _one_of(ratio_level, RATIO_LEVELS, "ratio_level")
  log_ratio = _real(policy - old, mask)
  if ratio_level == "sequence":
    log_ratio = sequence_mean(log_ratio, mask, sequence_ids)
  return jnp.exp(log_ratio)


def policy_loss(
  ratio: Tokens, policy: Tokens, advantages: Tokens, options: LossOptions
) -> tuple[Tokens, dict[str, Tokens]]:
  """l of each token, and where it was clipped (name -> bool [B, T]).

    grpo, bnpo, dr_grpo, dapo, with c1 the ratio:
      c2 = clip(c1, 1 - eps_low, 1 + eps_high);  c1 = min(c1, ratio_cap)
      l  = -min(c1 A, c2 A)
    cispo: l = -sg(min(c1, eps_high)) A policy; eps_high is the cap itself
    sapo:  l = -4 sigmoid(tau (c1 - 1)) / tau A; tau is 1 if A > 0, else 1.05

  Each is A times something: advantage 0 leaves a token out.
  """
  _one_of(options.loss_type, LOSS_TYPES, "loss_type")
  eps_low, eps_high = options.eps_low, options.eps_high
  if options.loss_type == "cispo":
    weight = jax.lax.stop_gradient(jnp.minimum(ratio, eps_high))
    capped = (ratio > eps_high) & (advantages != 0)
    return -weight * advantages * policy, {"clip_fraction_high": capped}
  if options.loss_type == "sapo":
    tau = jnp.where(advantages > 0, *SAPO_TAU).astype(ratio.dtype)
    return -4 * jax.nn.sigmoid(tau * (ratio - 1)) / tau * advantages, {}
  clipped = jnp.clip(ratio, 1 - eps_low, 1 + eps_high)
  where = {
    "clip_fraction_low": (ratio < 1 - eps_low) & (advantages < 0),
    "clip_fraction_high": (ratio > 1 + eps_high) & (advantages > 0),
  }
  if options.ratio_cap is not None:
    capped = (ratio > options.ratio_cap) & (advantages < 0)
    where["clip_fraction_cap"] = capped
    ratio = jnp.minimum(ratio, options.ratio_cap)
  return -jnp.minimum(ratio * advantages, clipped * advantages), where


def entropy_mask(
  entropy: Float[Array, "*batch"], mask: Float[Array, "*batch"], top: float
) -> Float[Array, "*batch"]:
  """1 on the share `top` of the tokens of mask 1 with the highest entropy.

  The threshold is the 1 - top quantile of their entropies (linear between
  neighbours, as numpy's and torch's); tokens on it are kept. Pass the whole
  batch, or the threshold depends on how it is cut.
  """
  chex.assert_equal_shape([entropy, mask])
  values = jnp.sort(jnp.where(mask > 0, entropy, jnp.inf), axis=None)
  last = jnp.maximum(jnp.sum(mask > 0) - 1, 0)
  at = (1 - top) * last.astype(values.dtype)
  below = jnp.floor(at)
  index = below.astype(jnp.int32)
  low, high = values[index], values[jnp.minimum(index + 1, last)]
  threshold = low + (high - low) * (at - below)
  return ((mask > 0) & (entropy >= threshold)).astype(mask.dtype)


def token_weights(
  mask: Tokens, sequence_weights: Tokens, loss_type: str
) -> Tokens:
  """What each token's loss counts in the sum.

  grpo, sapo: m / (trained tokens of its completion). bnpo: m / (trained tokens
  of this micro-batch, at least 1). dr_grpo, dapo, cispo: m.
  """
  _one_of(loss_type, LOSS_TYPES, "loss_type")
  if loss_type in ("grpo", "sapo"):
    return mask * sequence_weights
  if loss_type == "bnpo":
    return mask / jnp.maximum(jnp.sum(mask), 1)
  return mask


def grpo_normalizer(
  mask: Float[Array, "M B T"],
  sequence_weights: Float[Array, "M B T"],
  loss_type: str,
  max_completion_tokens: int,
) -> Scalar:
  """What the sum over the whole batch is divided by, at least 1.

  grpo, sapo: completions, those without a trained token included. dr_grpo:
  completions * max_completion_tokens. dapo, cispo: trained tokens; those of a
  teaching that was cut and is masked are not among them, so that masking never
  makes the others' gradient smaller. All must see the whole batch: all
  micro-batches, devices and hosts.
  bnpo: micro-batches, since it is a mean over each: the one loss type that
  depends on how a batch is cut.
  """
  _one_of(loss_type, LOSS_TYPES, "loss_type")
  chex.assert_rank([mask, sequence_weights], 3)
  if loss_type == "bnpo":
    # A micro-batch without a sequence is none.
    filled = jnp.any(sequence_weights > 0, axis=(1, 2))
    return jnp.maximum(jnp.sum(filled, dtype=mask.dtype), 1)
  count = mask if loss_type in ("dapo", "cispo") else sequence_weights
  # Rounded: the weights of a completion add up to 1 but for their last bits.
  count = jnp.maximum(jnp.round(jnp.sum(count)), 1)
  return count * max_completion_tokens if loss_type == "dr_grpo" else count


def grpo_loss(
  policy: Tokens,
  old: Tokens,
  behavior: Tokens,
  reference: Tokens | None,
  advantages: Tokens,
  mask: Tokens,
  sequence_weights: Tokens,
  sequence_ids: Int[Array, "B T"],
  options: LossOptions,
  entropy: Tokens | None = None,
) -> tuple[Scalar, Metrics]:
  """Sum over this micro-batch of the GRPO loss, and what to log.

    c1 = the ratio of policy and old              see policy_ratio
    l  = the loss of the type                     see policy_loss
    l  = l * rho                                  see mismatch_weights
    kl = k3(reference - policy), times c1 if kl_importance_weighted
    l  = l + beta * kl                            not multiplied by rho
    sum_t l * w                                   see token_weights

  Divide by `grpo_normalizer` of the whole batch. With one update per batch
  pass old = stop_gradient(policy): the ratio is 1 and its gradient remains.

  reference may be None when beta is 0; given, its KL is logged either way.
  entropy, of the policy's distribution at each token, is only logged.
  What the metrics mean: README.md beside this file.

  Raises:
    ValueError: an unknown loss_type, ratio_level or mismatch, or beta > 0
      without a reference.
  """
  given = [policy, old, behavior, advantages, mask, sequence_weights]
  given += [x for x in (reference, entropy) if x is not None]
  chex.assert_equal_shape([*given, sequence_ids])
  chex.assert_type(given, float)
  weights = token_weights(mask, sequence_weights, options.loss_type)
  advantages = _real(advantages, mask)

  ratio = policy_ratio(policy, old, mask, sequence_ids, options.ratio_level)
  loss, clipped = policy_loss(ratio, _real(policy, mask), advantages, options)
  mismatch_d = mismatch_log_ratio(old, behavior, mask)
  rho, outside = mismatch_weights(
    mismatch_d,
    sequence_ids,
    options.mismatch,
    options.mismatch_min,
    options.mismatch_max,
  )
  loss *= rho
  logged = {
    "ratio_mean": ratio,
    "mismatch_kl": k3(mismatch_d),
    "mismatch_mean": jnp.abs(mismatch_d),
    "mismatch_fraction": outside,
    **clipped,
  }
  if reference is not None:
    logged["kl"] = kl = k3(_real(reference - policy, mask))
    if options.beta > 0:
      weighted = kl * ratio if options.kl_importance_weighted else kl
      loss += options.beta * weighted
  elif options.beta > 0:
    raise ValueError(f"beta={options.beta} needs the reference's log-probs")
  if entropy is not None:
    logged["entropy"] = entropy
  total = jnp.sum(_real(loss, mask) * weights)

  tokens = jnp.sum(mask)
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
