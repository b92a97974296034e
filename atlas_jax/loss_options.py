"""The options of the GRPO loss, apart from it: they are read without JAX."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from atlas_jax.config_tree import NonNegativeFloat, Valid

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"]
RatioLevel = Literal["token", "sequence"]
Mismatch = Literal[
  *("none", "token_truncate", "token_mask"),
  *("sequence_truncate", "sequence_mask"),
]
_CAP = Valid("must be above 1 (nothing has changed), or None", lambda x: x > 1)


@dataclass(frozen=True)
class LossOptions:
  """Which loss, and its numbers; formulas and papers: training/losses.py.

  The default is DAPO's: the mean over all tokens of the batch, clipped higher
  than lower. The ratio of trainer to server is truncated, and there is no KL.
  """

  loss_type: LossType = "dapo"
  ratio_level: RatioLevel = "token"  # sequence: GSPO
  eps_low: NonNegativeFloat = 0.2
  # cispo: the cap of the ratio itself, typically 5.
  eps_high: NonNegativeFloat = 0.28
  # Caps the ratio also where A < 0; None: off.
  ratio_cap: Annotated[float, _CAP] | None = None
  beta: NonNegativeFloat = 0.0  # weight of the k3 KL; 0: no reference
  kl_importance_weighted: bool = False  # the KL times the ratio
  mismatch: Mismatch = "token_truncate"
  mismatch_min: NonNegativeFloat = 0.0
  mismatch_max: NonNegativeFloat = 2.0

  def conflicts(self) -> Iterator[str]:
    loss, cap = f"loss_type={self.loss_type}", self.ratio_cap
    if self.loss_type == "cispo" and self.eps_high < 1:
      yield (
        f"eps_high={self.eps_high}: with {loss} eps_high is itself the cap of"
        " the ratio, so it must be at least 1 (typically 5)"
      )
    if cap is not None and self.loss_type in ("cispo", "sapo"):
      yield f"ratio_cap={cap} has no effect with {loss}; leave it None"
    if self.kl_importance_weighted and self.beta == 0:
      yield "kl_importance_weighted=True has no effect with beta=0"
    low, high = self.mismatch_min, self.mismatch_max
    if not low <= 1 <= high:
      yield (
        f"mismatch_min={low} and mismatch_max={high} must enclose 1, the weight"
        " where sampler and trainer agree"
      )
