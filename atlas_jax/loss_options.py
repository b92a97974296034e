"""What the GRPO loss can do: the options of training/losses.py.

They stand apart from the loss so that a config is read without JAX.
"""

from dataclasses import dataclass
from typing import Literal

from atlas_jax.config_tree import NonNegativeFloat

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"]
RatioLevel = Literal["token", "sequence"]
Mismatch = Literal[
  *("none", "token_truncate", "token_mask"),
  *("sequence_truncate", "sequence_mask"),
]


@dataclass(frozen=True)
class LossOptions:
  """Which loss, and its numbers; the formulas are in training/losses.py."""

  loss_type: LossType = "dapo"
  ratio_level: RatioLevel = "token"  # sequence: GSPO
  eps_low: NonNegativeFloat = 0.2
  # cispo: the cap of the ratio itself, typically 5.
  eps_high: NonNegativeFloat = 0.28
  ratio_cap: float | None = None  # caps the ratio also where A < 0; None: off
  beta: NonNegativeFloat = 0.0  # weight of the k3 KL; 0: no reference
  kl_importance_weighted: bool = False  # the KL times the ratio
  mismatch: Mismatch = "token_truncate"
  mismatch_min: NonNegativeFloat = 0.0
  mismatch_max: NonNegativeFloat = 2.0
