"""What could be judged under two sets of prompts, and whether it is enough.

Prompts under which models fail more often could seem better only because the
hard problems are missing.
"""

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence

from atlas_jax.config import PromptsConfig
from atlas_jax.online.search.rollouts import Rollout

# Shares of a split: what must have been judged under both, and what may lack
# of that which was judged under the seed.
_LEAST_PAIRS = 0.9
_MORE_UNJUDGED = 0.02
# (problem id, replicate) -> its rollout.
Keyed = Mapping[tuple[str, int], Rollout]


def judged(
  trials: Iterable[Sequence[Rollout]],
) -> Mapping[PromptsConfig, Keyed]:
  """The rollouts with a score, of each set of prompts."""
  found: dict[PromptsConfig, dict] = collections.defaultdict(dict)
  for rollout in itertools.chain(*trials):
    if rollout.score is not None:
      key = rollout.problem.id, rollout.replicate
      found[rollout.prompts][key] = rollout
  return found


def lacking(
  who: str, what: str, samples: int, seed: int, pairs: int
) -> list[str]:
  """Why too little was judged for the seed to be replaced; else nothing.

  Args:
    who: would replace it.
    what: was to be judged.
    samples: how many of it there are.
    seed, pairs: judged under the seed, under both.
  """
  enough = max(_LEAST_PAIRS * samples, seed - _MORE_UNJUDGED * samples)
  if pairs >= enough:
    return []
  return [
    f"only {pairs} of {samples} {what} could be judged under {who} and the seed"
    f" prompts, {seed} under the seed prompts"
  ]
