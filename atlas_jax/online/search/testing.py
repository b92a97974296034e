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
from atlas_jax.online.search.choosing import Fresh
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.files import Journal
from atlas_jax.online.search.rollouts import Rollout, Rollouts, Trial
from atlas_jax.teaching import statistics
from atlas_jax.teaching.statistics import Outcome


def outcomes(rollout: Rollout) -> tuple[Outcome, Outcome]:
  """(unaided, taught) solution of a scored rollout, for statistics."""
  scored, problem = rollout.scored, rollout.problem
  (alone,), (teaching,) = scored.episode.baseline, scored.episode.teachings
  (alone_verdict,), (verdict,) = scored.baseline, scored.taught
  (leaked,), seconds = scored.leaked, scored.episode.seconds
  return Outcome(
    problem_id=problem.id,
    correct=alone_verdict.score,
    completed=alone_verdict.completed,
    response_tokens=alone.tokens,
    teaching_tokens=0,
    seconds=alone.seconds,
    leaked=False,
  ), Outcome(
    problem_id=problem.id,
    correct=verdict.score,
    completed=verdict.completed,
    response_tokens=teaching.taught.tokens,
    teaching_tokens=teaching.tokens,
    seconds=sum(seconds[stage] for stage in ("probe", "teach", "taught")),
    leaked=leaked,
    kind=problem.kind,
    teacher_asked=True,
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
  any_of = {key for mine in found.values() for key in mine}
  alone = [outcomes(before[key])[0] for key in common]
  arms = [_arm(config, "student alone", alone, None, total - len(any_of))]
  for prompts, name in names.items():
    mine = [outcomes(found[prompts][key])[1] for key in common]
    arms.append(_arm(config, name, mine, alone, total - len(found[prompts])))
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
