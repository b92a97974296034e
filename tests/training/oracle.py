"""The GRPO loss by loops over completions and tokens, in float64 torch.

Written from the formulas, one completion at a time and unpacked, so that
autograd gives the gradient that the packed JAX loss must have.
"""

import dataclasses

import numpy as np
import torch

from atlas_jax.loss_options import LossOptions


def options(**changes) -> LossOptions:
  """The defaults with `changes`, and no correction unless they name one."""
  return LossOptions(**{"mismatch": "none", **changes})


@dataclasses.dataclass
class Completion:
  """Where one completion stands in a packed batch: its trained tokens only."""

  row: int
  tokens: list[int]


def batch(seed=88, rows=5, length=13):
  """Packed arrays in float64 whose ratios reach every side of every bound.

  Row 0 holds two completions, row 1 a single token and one with a hole (a turn
  of someone else), row 2 one without a trained token; two rows are empty.
  """
  rng = np.random.default_rng(seed)
  shape = (rows, length)
  mask, weights, advantages = np.zeros(shape), np.zeros(shape), np.zeros(shape)
  ids = np.zeros(shape, np.int32)
  completions = [
    Completion(0, [2, 3, 4]),
    Completion(0, [7, 8, 9, 10, 11]),
    Completion(1, [1]),
    Completion(1, [4, 5, 6, 9, 10, 11]),
    Completion(2, []),
  ]
  for b, first, last, number in [
    (0, 0, 4, 1), (0, 5, 11, 2), (1, 0, 1, 1), (1, 2, 12, 2), (2, 0, 4, 1)
  ]:  # fmt: skip
    ids[b, first : last + 1] = number
  for c in completions:
    mask[c.row, c.tokens] = 1
    weights[c.row, c.tokens] = 1 / max(len(c.tokens), 1)
    advantages[c.row, c.tokens] = rng.normal() * 2
  weights[2, 4] = 1  # the silent one counts, too
  old = -rng.exponential(1.5, shape)
  arrays = dict(
    policy=old + rng.normal(0, 0.5, shape),
    old=old,
    behavior=old + rng.normal(0, 0.5, shape),
    reference=old + rng.normal(0, 0.4, shape),
    advantages=advantages,
    mask=mask,
    sequence_weights=weights,
    sequence_ids=ids,
  )
  return arrays, completions


def _rho(d: torch.Tensor, mismatch: str, low: float, high: float):
  if mismatch == "none":
    return torch.ones_like(d)
  d = torch.nan_to_num(d, nan=0.0)
  if mismatch.startswith("sequence"):
    d = d.sum().expand(len(d))
  rho = d.exp()
  if mismatch.endswith("truncate"):
    return rho.clamp(low, high)
  return torch.where((rho >= low) & (rho <= high), rho, 0.0)


def _one(x: dict, i: list[int], k: LossOptions):
  """(l of the tokens i, their clip sides) of one completion."""
  policy, old, a = x["policy"][i], x["old"][i].detach(), x["advantages"][i]
  c1 = (policy - old).exp()
  if k.ratio_level == "sequence":
    c1 = ((policy - old).sum() / len(i)).exp().expand(len(i))
  weighted = c1
  if k.loss_type == "cispo":
    l = -c1.clamp(max=k.eps_high).detach() * a * policy
  elif k.loss_type == "sapo":
    tau = 1.05 - 0.05 * (a > 0).double()
    l = -4 * torch.sigmoid(tau * (c1 - 1)) / tau * a
  else:
    c2 = c1.clamp(1 - k.eps_low, 1 + k.eps_high)
    if k.ratio_cap is not None:
      c1 = c1.clamp(max=k.ratio_cap)
    l = -torch.minimum(c1 * a, c2 * a)
  d = old - x["behavior"][i]
  l = l * _rho(d, k.mismatch, k.mismatch_min, k.mismatch_max)
  if k.beta:
    log_ratio = x["reference"][i] - policy
    kl = log_ratio.exp() - log_ratio - 1
    l = l + k.beta * (kl * weighted if k.kl_importance_weighted else kl)
  return l


def loss_and_gradient(
  arrays: dict,
  completions: list[Completion],
  *,
  max_completion_tokens: int = 7,
  **changes,
) -> tuple[float, np.ndarray]:
  """The loss of the whole batch as one micro-batch, and d loss / d policy."""
  k = options(**changes)
  x = {name: torch.tensor(v, dtype=torch.float64) for name, v in arrays.items()}
  x["policy"].requires_grad_()
  per_completion = []
  for c in completions:
    row = {name: v[c.row] for name, v in x.items()}
    per_completion.append(
      _one(row, c.tokens, k)
      if c.tokens
      else torch.zeros(0, dtype=torch.float64)
    )
  tokens = sum(len(l) for l in per_completion)
  n = len(completions)
  if k.loss_type in ("grpo", "sapo"):
    loss = sum(l.sum() / max(len(l), 1) for l in per_completion) / n
  else:
    total = sum(l.sum() for l in per_completion)
    loss = (
      total
      / {
        "bnpo": max(tokens, 1),
        "dapo": max(tokens, 1),
        "cispo": max(tokens, 1),
        "dr_grpo": n * max_completion_tokens,
      }[k.loss_type]
    )
  if loss.requires_grad:
    loss.backward()
  gradient = x["policy"].grad
  if gradient is None:
    gradient = torch.zeros_like(x["policy"])
  return loss.item(), gradient.numpy()
