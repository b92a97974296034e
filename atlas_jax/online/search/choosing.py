"""Which prompts are kept, and what may be claimed of them.

1. The `best_of` best candidates on validation, and the seed, are scored again
   on the validation problems, with fresh samples that no choice has seen. Each
   is compared with the seed on the samples that both were judged on; one that
   was judged on less than half of them is dropped.
2. The one with the greatest gain over the seed is chosen, one that meets the
   floor of non-degradation before one that does not. The gap between the score
   that it was picked by and its fresh score is the winner's curse.
3. It meets the test split once, beside the seed and the student alone
   (comparing.py).
4. The seed is kept where
   a. the chosen one's fresh score is not above the seed's;
   b. teaching made more problems worse than non_degradation_floor allows, on
      the fresh samples or on the test split;
   c. its score on the test split is not above the seed's, or (with
      require_proof) the interval of the gain includes 0;
   d. too little could be judged, there or here (`comparing.coverage`).
Where every temperature is 0 there are no fresh samples: the scores of the
search take their place, and no gap is measured.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from atlas_jax.online.search import comparing
from atlas_jax.online.search.budget import Budget, choosing_jobs
from atlas_jax.online.search.comparing import ChoosingError
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.journal import Candidate, Journal
from atlas_jax.online.search.rollouts import Job, Rollout, Rollouts
from atlas_jax.teaching.statistics import Interval

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fresh:
  """A candidate scored again, on the samples that it and the seed have.

  gain: score less the seed's. gap: validation score less fresh score of the
  same problems; None where the score is not a fresh one. pairs: samples that
  both have; judged: samples that it has, of `samples`.
  """

  candidate: Candidate
  score: float
  gain: float
  accuracy: float
  non_degradation: float
  gap: float | None
  pairs: int
  judged: int
  samples: int


@dataclass(frozen=True)
class Choice:
  """What was chosen, why, and how it did.

  kept is the candidate whose prompts are to be used: `best`, or the seed for
  `reasons`. score_gain and accuracy_gain: best less seed on the test split;
  None where the best is the seed. test_score: of best on the test split, None
  where it could not be judged. evaluation is that of reports/tables.py.
  """

  fresh: tuple[Fresh, ...]
  best: Fresh
  kept: Candidate
  reasons: tuple[str, ...]
  evaluation: dict
  test_score: float | None
  score_gain: Interval | None
  accuracy_gain: Interval | None
  mcnemar_p: float | None
  pairs: int

  @property
  def proven(self) -> bool:
    """The interval of the accuracy's gain over the seed excludes 0."""
    return self.accuracy_gain is not None and self.accuracy_gain.low > 0

  @property
  def harm(self) -> Interval | None:
    """The gain of the kept prompts over the student alone, where it is a loss.

    That is where its interval lies below 0, on the test split.
    """
    arms = self.evaluation["arms"]
    arm = arms[1 if self.kept.index == 0 else -1]
    if arm["gain_high"] >= 0:
      return None
    return Interval(arm["gain"], arm["gain_low"], arm["gain_high"])


def choose(
  config: OnlineConfig, rollouts: Rollouts, budget: Budget, journal: Journal
) -> Choice:
  """Chooses, and meets the test split.

  Raises:
    ChoosingError: no problem of a split could be judged.
    BudgetSpent: retries took what was set aside.
  """
  seed = journal.candidates[0]
  best = journal.best(config.choosing.best_of)
  contenders = [seed, *(c for c in best if c.index != seed.index)]
  fresh, dropped = _score_again(config, rollouts, budget, contenders)
  chosen = _best(fresh, config.choosing.non_degradation_floor)
  reasons = _doubts(config, chosen, fresh[0], dropped)
  test, too_few = comparing.compare(
    config, rollouts, budget.sets, seed, chosen.candidate
  )
  reasons += too_few + _test_doubts(config, test)
  for reason in reasons:
    log.warning("the seed prompts are kept: %s", reason)
  return Choice(
    fresh=tuple(fresh),
    best=chosen,
    kept=seed if reasons else chosen.candidate,
    reasons=tuple(reasons),
    **test,
  )


def _score_again(
  config, rollouts, budget, contenders
) -> tuple[list[Fresh], list[str]]:
  """The contenders scored again, the seed first; why others were dropped."""
  n, problems = config.choosing.fresh_samples, budget.sets.validation
  prompts = [x.prompts for x in contenders]
  if n > 0:
    jobs = choosing_jobs(prompts, budget.sets, n)
    found = comparing.judged(jobs, rollouts.evaluate(jobs))
  else:
    jobs = [Job(p, problems, "validation") for p in prompts]
    found = comparing.judged(jobs, map(rollouts.known, jobs))
  samples = len(problems) * max(1, n)
  seed = found[prompts[0]]
  if not seed:
    raise ChoosingError(
      "no validation problem could be judged under the seed prompts"
    )
  fresh, dropped = [], []
  for candidate in contenders:
    mine = found[candidate.prompts]
    pairs = [(seed[key], mine[key]) for key in mine if key in seed]
    if mine is seed or (pairs and 2 * len(mine) >= samples):
      measured = _measured(candidate, pairs, is_fresh=n > 0)
      counts = {"pairs": len(pairs), "judged": len(mine), "samples": samples}
      fresh.append(Fresh(candidate, **measured, **counts))
    else:
      dropped.append(
        f"candidate {candidate.index} could be judged on {len(mine)} of"
        f" {samples} samples of the validation problems"
      )
  return fresh, dropped


def _measured(
  candidate: Candidate, pairs: Sequence[tuple[Rollout, Rollout]], is_fresh: bool
) -> dict:
  mine = [r for _, r in pairs]
  gaps = [
    candidate.scores[r.problem.id] - r.score
    for r in mine
    if r.problem.id in candidate.scores
  ]
  return {
    "score": comparing.mean(r.score for r in mine),
    "gain": comparing.mean(after.score - b.score for b, after in pairs),
    "accuracy": comparing.mean(r.objectives["accuracy"] for r in mine),
    "non_degradation": comparing.mean(
      r.objectives["non_degradation"] for r in mine
    ),
    "gap": comparing.mean(gaps) if gaps and is_fresh else None,
  }


def _best(fresh: Sequence[Fresh], floor: float) -> Fresh:
  """By gain over the seed; of equals the earlier, so the seed first."""
  above = [f for f in fresh[1:] if f.gain > 0]
  fit = [f for f in above if f.non_degradation >= floor]
  return max(
    fit or above or fresh[:1], key=lambda f: (f.gain, -f.candidate.index)
  )


def _doubts(
  config, chosen: Fresh, seed: Fresh, dropped: Sequence[str]
) -> list[str]:
  """Why the seed is kept, as far as validation tells."""
  if chosen is seed:
    why = "no candidate scored above them on the validation problems"
    return [why, *dropped]
  reasons = comparing.coverage(
    "samples of the validation problems",
    chosen.samples,
    seed.judged,
    chosen.judged,
    chosen.pairs,
  )
  floor = config.choosing.non_degradation_floor
  if chosen.non_degradation < floor:
    reasons.append(
      f"with candidate {chosen.candidate.index}, {chosen.non_degradation:.1%}"
      " of the validation problems did not get worse, below"
      f" config.choosing.non_degradation_floor={floor:g}"
    )
  return reasons


def _test_doubts(config, test: dict) -> list[str]:
  """Why the seed is kept, as the scores on the test split tell."""
  c = config.choosing
  gain = test["score_gain"]
  if gain is None:
    return []
  reasons = []
  if gain.estimate <= 0:
    reasons.append(
      "on the test split the chosen prompts score no more than they do"
      f" (gain {gain.estimate:+.4f})"
    )
  elif c.require_proof and test["accuracy_gain"].low <= 0:
    reasons.append(
      "the interval of the accuracy's gain on the test split includes 0 and"
      " config.choosing.require_proof is set"
    )
  kept = test["evaluation"]["arms"][-1]["non_degradation_all"]
  if kept < c.non_degradation_floor:
    reasons.append(
      f"with the chosen prompts {kept:.1%} of the test problems did not get"
      " worse, below config.choosing.non_degradation_floor="
      f"{c.non_degradation_floor:g}"
    )
  return reasons
