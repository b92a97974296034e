"""The test split: chosen prompts beside the seed's and the student alone.

Arms are compared on the problems that all of them were judged on. How many
were not is part of the evaluation: prompts under which models fail more often
could seem better only because the hard problems are missing.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from atlas_jax.config import PromptsConfig
from atlas_jax.errors import AtlasError
from atlas_jax.online.search.budget import Sets, test_jobs
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.journal import Candidate
from atlas_jax.online.search.rollouts import Job, Rollout, Rollouts
from atlas_jax.teaching import statistics
from atlas_jax.teaching.statistics import Outcome

# (problem id, replicate) -> its rollout.
Keyed = Mapping[tuple[str, int], Rollout]
# A share of a split: what the candidate may lack that the seed has, and what
# must have been judged under both.
_MORE_UNJUDGED = 0.02
_LEAST_PAIRS = 0.9


class ChoosingError(AtlasError):
  """Nothing could be judged, so nothing can be claimed."""


def mean(values: Iterable[float]) -> float:
  values = list(values)
  return sum(values) / len(values)


def judged(
  jobs: Sequence[Job], made: Iterable[Sequence[Rollout]]
) -> dict[PromptsConfig, Keyed]:
  """The rollouts with a score, of each set of prompts."""
  found: dict[PromptsConfig, dict] = {}
  for job, rollouts in zip(jobs, made, strict=True):
    mine = found.setdefault(job.prompts, {})
    mine |= {
      (r.problem.id, r.replicate): r for r in rollouts if r.score is not None
    }
  return found


def coverage(
  what: str, samples: int, seed: int, best: int, pairs: int
) -> list[str]:
  """Why too little was judged for the seed to be replaced.

  Args:
    what: was to be judged.
    samples: how many of it there are.
    seed, best, pairs: judged under the seed, under the best, under both.
  """
  reasons = []
  if seed - best > _MORE_UNJUDGED * samples:
    reasons.append(
      f"{samples - best} of {samples} {what} could not be judged under the"
      f" chosen prompts, {samples - seed} under the seed prompts"
    )
  if pairs < _LEAST_PAIRS * samples:
    reasons.append(
      f"only {pairs} of {samples} {what} could be judged under the chosen"
      " prompts and the seed prompts"
    )
  return reasons


def outcome(rollout: Rollout) -> Outcome:
  """The taught solution of a scored rollout, for statistics."""
  scored = rollout.scored
  (teaching,), (verdict,) = scored.episode.teachings, scored.taught
  (leaked,) = scored.leaked
  stages = ("probe", "teach", "taught")
  return Outcome(
    problem_id=rollout.problem.id,
    correct=verdict.score,
    completed=verdict.completed,
    response_tokens=teaching.taught.tokens,
    teaching_tokens=teaching.tokens,
    seconds=sum(scored.episode.seconds[stage] for stage in stages),
    leaked=leaked,
    kind=rollout.problem.kind,
    teacher_asked=True,
  )


def outcome_alone(rollout: Rollout) -> Outcome:
  """The unaided solution of a scored rollout."""
  (said,), (verdict,) = (
    rollout.scored.episode.baseline,
    rollout.scored.baseline,
  )
  return Outcome(
    problem_id=rollout.problem.id,
    correct=verdict.score,
    completed=verdict.completed,
    response_tokens=said.tokens,
    teaching_tokens=0,
    seconds=said.seconds,
    leaked=False,
  )


def compare(
  config: OnlineConfig,
  rollouts: Rollouts,
  sets: Sets,
  seed: Candidate,
  best: Candidate,
) -> tuple[dict, list[str]]:
  """The test split under both.

  Returns:
    Arms, gains and counts as keyword arguments of choosing.Choice; why too
    little was judged.

  Raises:
    ChoosingError: nothing could be judged under the seed prompts.
    BudgetSpent: retries took what was set aside.
  """
  names = {seed.prompts: "seed prompts"}
  names.setdefault(best.prompts, f"candidate {best.index}")
  jobs = test_jobs(list(names), sets)
  found = judged(jobs, rollouts.evaluate(jobs))
  before, after = found[seed.prompts], found[best.prompts]
  if not before:
    raise ChoosingError(
      "no test problem could be judged under the seed prompts"
    )
  total = len(sets.test)
  common = [key for key in before if key in after]
  result = {"pairs": len(common), "test_score": None}
  result |= dict.fromkeys(("score_gain", "accuracy_gain", "mcnemar_p"))
  too_few = []
  if common:
    result["test_score"] = mean(after[key].score for key in common)
  if len(names) > 1:
    too_few = coverage(
      "test problems", total, len(before), len(after), len(common)
    )
    if common:
      result |= _gains(config, [(before[k], after[k]) for k in common])
    else:  # there is nothing to show of the candidate
      del names[best.prompts]
      common = list(before)
  any_of = {key for mine in found.values() for key in mine}
  alone = [outcome_alone(before[key]) for key in common]
  arms = [_arm(config, "student alone", alone, None, total - len(any_of))]
  for prompts, name in names.items():
    outcomes = [outcome(found[prompts][key]) for key in common]
    unjudged = total - len(found[prompts])
    arms.append(_arm(config, name, outcomes, alone, unjudged))
  result["evaluation"] = {"problems": total, "split": "test", "arms": arms}
  return result, too_few


def _arm(config, name, outcomes, alone, unjudged: int) -> dict:
  """unjudged: problems of the split, not of those that are compared."""
  arm = statistics.arm_result(
    name,
    outcomes,
    alone=alone,
    resamples=config.choosing.bootstrap_resamples,
    seed=config.seed,
  )
  return dataclasses.asdict(arm) | {"unjudged": unjudged}


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
