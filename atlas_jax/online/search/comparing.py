"""Prompts compared on the problems that were judged under all of them.

Prompts under which models fail more often could seem better only because the
hard problems are missing: how many could not be judged is part of a comparison,
and too many end it.
"""

import collections
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from statistics import fmean

from atlas_jax.config import PromptsConfig
from atlas_jax.data.splits import Splits
from atlas_jax.online.search.rollouts import Rollout, Rollouts, trial
from atlas_jax.reports.reading import attempts_of
from atlas_jax.teaching import statistics, transcripts
from atlas_jax.teaching.statistics import Interval

# Shares of a split: what must have been judged under both, and what may lack
# of that which was judged under the seed. Of few samples one may lack.
_LEAST_PAIRS = 0.9
_MORE_UNJUDGED = 0.02
# (problem id, replicate) -> its rollout.
Keyed = Mapping[tuple[str, int], Rollout]


def judged(rollouts: Iterable[Rollout]) -> Mapping[PromptsConfig, Keyed]:
  """The rollouts with a score, of each set of prompts."""
  found: dict[PromptsConfig, dict] = collections.defaultdict(dict)
  for rollout in rollouts:
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
  if pairs >= max(1, min(enough, samples - 1)):
    return []
  return [
    f"only {pairs} of {samples} {what} could be judged under {who} and the seed"
    f" prompts, {seed} under the seed prompts"
  ]


def compare(
  rollouts: Rollouts, sets: Splits, chosen: int
) -> tuple[dict, list[str]]:
  """The test split under the seed and the candidate that was chosen.

  Returns:
    Arms, gains and counts as keyword arguments of choosing.Choice; why too
    little was judged.

  Raises:
    RolloutError: too little came back.
    BudgetSpent: retries took what was kept.
  """
  config, candidates = rollouts.config, rollouts.journal.candidates
  seed, best = candidates[0], candidates[chosen]
  trials = [trial(c.prompts, sets.test, "test") for c in (seed, best)]
  found = judged(rollouts.evaluate([*trials[0], *trials[1]]))
  before, after = found[seed.prompts], found[best.prompts]
  any_of, total = {*before, *after}, len(sets.test)
  pairs, too_few = [key for key in before if key in after], []
  if chosen != 0:
    counts = total, len(before), len(pairs)
    too_few = lacking("the chosen prompts", "test problems", *counts)
  common = pairs or before
  how = {
    "resamples": config.choosing.bootstrap_resamples,
    "seed": config.seed,
  }

  def attempts(keyed: Keyed) -> list[tuple[dict, dict]]:
    """(alone, taught) of each problem."""
    scored = (transcripts.episode_json(keyed[key].scored, 0) for key in common)
    return [attempts_of(line, "") for line in scored]

  def arm(name: str, mine, alone, judged_on: int) -> dict:
    found = statistics.arm_result(name, mine, alone=alone, **how)
    # Of the split, not of the problems that are compared.
    return asdict(found) | {"unjudged": total - judged_on}

  alone, of_seed = zip(*attempts(before), strict=True)
  arms = [
    arm("student alone", alone, None, len(any_of)),
    arm("seed prompts", of_seed, alone, len(before)),
  ]
  gains = dict.fromkeys(("score_gain", "accuracy_gain", "mcnemar_p"))
  if chosen != 0 and pairs:  # there is something to show of it
    _, of_best = zip(*attempts(after), strict=True)
    arms.append(arm(f"candidate {best.index}", of_best, alone, len(after)))
    gain = statistics.arm_result("gain", of_best, alone=of_seed, **how)
    scores = ([keyed[key].score for key in pairs] for keyed in (before, after))
    gains = {
      "score_gain": statistics.paired_bootstrap(*scores, **how),
      "accuracy_gain": Interval(gain.gain, gain.gain_low, gain.gain_high),
      "mcnemar_p": gain.mcnemar_p,
    }
  return gains | {
    "pairs": len(pairs),
    "test_score": fmean(after[key].score for key in pairs) if pairs else None,
    "evaluation": {"problems": total, "split": "test", "arms": arms},
  }, too_few
