"""What a rollout is worth: from its verdicts to a score."""

from collections.abc import Mapping

from atlas_jax.config import RewardConfig
from atlas_jax.online.search.config import ObjectivesConfig
from atlas_jax.teaching.rewards import ScoredEpisode

# Efficiency in full: the objectives weigh it.
REWARD = RewardConfig(efficiency_weight=1.0)


def objectives_of(scored: ScoredEpisode) -> dict[str, float] | None:
  """What the search may look at, each in [0, 1]; None without a verdict.

  accuracy         the taught solution is right
  non_degradation  it is not worse than the unaided one
  efficiency       the share of the unaided response's tokens that a right
                   taught one saved
  completion       it states an answer
  """
  (verdict,), (reward,) = scored.taught, scored.rewards
  if reward.total is None:
    return None
  return {
    "accuracy": verdict.score,
    "non_degradation": float(verdict.score >= scored.pass_rate),
    "efficiency": reward.parts["efficiency"],
    "completion": float(verdict.completed),
  }


def score_of(
  objectives: Mapping[str, float], leaked: bool, config: ObjectivesConfig
) -> float:
  """The weighted mean of the objectives, less for a teaching that leaks."""
  weights = {name: getattr(config, name) for name in objectives}
  mean = sum(weights[n] * value for n, value in objectives.items())
  mean /= sum(weights.values())
  return max(0.0, mean - config.leak_penalty * leaked)
