"""The test split: chosen prompts beside the seed's and the student alone.

Arms are compared on the problems that all of them were judged on. How many
were not is part of the evaluation: prompts under which models fail more often
could seem better only because the hard problems are missing.
"""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from atlas_jax.data.splits import Splits
from atlas_jax.online.search import choosing
from atlas_jax.online.search.choosing import Fresh, Keyed
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.files import Journal
from atlas_jax.online.search.rollouts import Rollout, Rollouts, Trial
from atlas_jax.teaching import statistics
from atlas_jax.teaching.arms import Attempt
from atlas_jax.teaching.statistics import Outcome


def _attempts(rollout: Rollout) -> tuple[Attempt, Attempt]:
  """(unaided, taught) attempt of a scored rollout."""
  episode, which = rollout.scored.episode, (rollout.problem, rollout.replicate)
  (alone,), (teaching,) = episode.baseline, episode.teachings
  return Attempt(*which, alone, seconds=alone.seconds), Attempt(
    *which,
    teaching.taught,
    teacher_text=teaching.said.text,
    teaching=teaching.text,
    teaching_tokens=teaching.tokens,
    seconds=sum(episode.seconds[s] for s in ("probe", "teach", "taught")),
  )


def compare(
  config: OnlineConfig,
  rollouts: Rollouts,
  sets: Splits,
  journal: Journal,
  chosen: Fresh,
) -> tuple[dict, list[str]]:
  """The test split under the seed and the chosen prompts.

  Returns:
    Arms, gains and counts as keyword arguments of choosing.Choice; why too
    little was judged.

  Raises:
    RolloutError: too little came back.
    BudgetSpent: retries took what was kept.
  """
  seed, best = (journal.candidates[i] for i in (0, chosen.candidate))
  names = {seed.prompts: "seed prompts"}
  names.setdefault(best.prompts, f"candidate {best.index}")
  trials = [Trial(prompts, sets.test, "test") for prompts in names]
  found = choosing.judged(
    trials, rollouts.evaluate(trials, needed=seed.prompts)
  )
  before, after = found[seed.prompts], found[best.prompts]
  total = len(sets.test)
  common = [key for key in before if key in after]
  result = {"pairs": len(common), "test_score": None}
  result |= dict.fromkeys(("score_gain", "accuracy_gain", "mcnemar_p"))
  too_few = []
  if common:
    result["test_score"] = fmean(after[key].score for key in common)
  if len(names) > 1:
    too_few = choosing.coverage(
      "test problems", total, len(before), len(after), len(common)
    )
    if common:
      result |= _gains(config, [(before[k], after[k]) for k in common])
    else:  # there is nothing to show of the candidate
      del names[best.prompts]
      common = list(before)

  def outcomes(keyed: Keyed, arm: int) -> list[Outcome]:
    attempts = [_attempts(keyed[key])[arm] for key in common]
    return statistics.judge(attempts, rollouts.checker)[0]

  any_of = {key for mine in found.values() for key in mine}
  alone = outcomes(before, 0)
  arms = [_arm(config, "student alone", alone, None, total - len(any_of))]
  for prompts, name in names.items():
    mine, unjudged = outcomes(found[prompts], 1), total - len(found[prompts])
    arms.append(_arm(config, name, mine, alone, unjudged))
  result["evaluation"] = {"problems": total, "split": "test", "arms": arms}
  return result, too_few


def _arm(config, name, mine, alone, unjudged: int) -> dict:
  """unjudged: problems of the split, not of those that are compared."""
  arm = statistics.arm_result(
    name,
    mine,
    alone=alone,
    resamples=config.choosing.bootstrap_resamples,
    seed=config.seed,
  )
  return asdict(arm) | {"unjudged": unjudged}


def _gains(config, pairs: Sequence[tuple[Rollout, Rollout]]) -> dict:
  def gain(value):
    return statistics.paired_bootstrap(
      [value(before) for before, _ in pairs],
      [value(after) for _, after in pairs],
      resamples=config.choosing.bootstrap_resamples,
      seed=config.seed,
    )

  def right(rollout):
    return rollout.objectives["accuracy"]

  return {
    "score_gain": gain(lambda r: r.score),
    "accuracy_gain": gain(right),
    "mcnemar_p": statistics.mcnemar(
      [right(b) > 0.5 for b, _ in pairs], [right(a) > 0.5 for _, a in pairs]
    ),
  }
