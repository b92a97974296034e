"""Which prompts are kept, and what may be claimed of them.

1. The `best_of` best candidates on validation, and the seed, are scored again
   on the validation problems, with fresh samples that no choice has seen. Each
   is compared with the seed on the samples that both were judged on; one of
   which too little could be judged (comparing.py) is dropped.
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
   d. too little of the test split could be judged.
Where every temperature is 0 there are no fresh samples: the scores of the
search take their place, and no gap is measured.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from atlas_jax.data.splits import Splits
from atlas_jax.online.search import comparing
from atlas_jax.online.search.config import OnlineConfig
from atlas_jax.online.search.files import Candidate
from atlas_jax.online.search.rollouts import Rollout, Rollouts, trial
from atlas_jax.teaching.statistics import Interval

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fresh:
  """A candidate scored again, on the samples that it and the seed have.

  gain: fresh score less the seed's. gap: validation score less fresh score of
  the same problems; None where the score is not a fresh one. pairs: how many,
  of `samples`.
  """

  candidate: int
  validation_score: float
  fresh_score: float
  gain: float
  gap: float | None
  accuracy: float
  non_degradation: float
  pairs: int
  samples: int


@dataclass(frozen=True)
class Choice:
  """What was chosen, why, and how it did: the content of optimize.json.

  kept is the candidate whose prompts are to be used: `best`, or the seed (0)
  for `reasons`. dropped: why others were not compared. test_score is that of
  the best, None where it could not be judged on the test split. proven: the
  interval of the accuracy's gain over the seed excludes 0. harm: the gain of
  the kept prompts over the student alone where its interval lies below 0.
  score_gain and accuracy_gain: best less seed on the test split; None where the
  best is the seed. evaluation is that of reports/tables.py.
  """

  kept: int
  best: int
  reasons: tuple[str, ...]
  proven: bool
  harm: Interval | None
  test_score: float | None
  fresh: tuple[Fresh, ...]
  dropped: tuple[str, ...]
  pairs: int
  score_gain: Interval | None
  accuracy_gain: Interval | None
  mcnemar_p: float | None
  evaluation: dict


def score_again(
  rollouts: Rollouts, sets: Splits
) -> tuple[list[Fresh], list[str]]:
  """The seed and the best scored again, in this order; why others were dropped.

  Raises:
    RolloutError: too little came back.
    BudgetSpent: retries took what was kept.
  """
  config, journal = rollouts.config.choosing, rollouts.journal
  n, problems = config.fresh_samples, sets.validation
  seed, best = journal.candidates[0], journal.best(config.best_of)
  contenders = [seed, *(c for c in best if c is not seed)]
  trials = [
    rollout
    for candidate in contenders
    for replicate in (range(1, n + 1) if n else (0,))
    for rollout in trial(candidate.prompts, problems, "validation", replicate)
  ]
  found = comparing.judged(rollouts.evaluate(trials))
  samples, of_seed = len(problems) * max(1, n), found[seed.prompts]
  fresh, dropped = [], []
  for candidate in contenders:
    mine, who = found[candidate.prompts], f"candidate {candidate.index}"
    pairs = [(of_seed[key], mine[key]) for key in mine if key in of_seed]
    counts = samples, len(of_seed), len(pairs)
    what = "samples of the validation problems"
    if candidate is not seed and (why := comparing.lacking(who, what, *counts)):
      dropped += why
    else:
      fresh.append(_measured(candidate, pairs, samples, is_fresh=n > 0))
  return fresh, dropped


def _measured(
  candidate: Candidate,
  pairs: Sequence[tuple[Rollout, Rollout]],
  samples: int,
  is_fresh: bool,
) -> Fresh:
  mine = [r for _, r in pairs]
  gaps = [
    candidate.scores[r.problem.id] - r.score
    for r in mine
    if r.problem.id in candidate.scores
  ]
  return Fresh(
    candidate=candidate.index,
    validation_score=candidate.score,
    fresh_score=fmean(r.score for r in mine),
    gain=fmean(after.score - before.score for before, after in pairs),
    gap=fmean(gaps) if gaps and is_fresh else None,
    accuracy=fmean(r.objectives["accuracy"] for r in mine),
    non_degradation=fmean(r.objectives["non_degradation"] for r in mine),
    pairs=len(pairs),
    samples=samples,
  )


def pick(fresh: Sequence[Fresh], floor: float) -> Fresh:
  """By gain over the seed; of equals the earlier, so the seed first."""
  above = [f for f in fresh[1:] if f.gain > 0]
  fit = [f for f in above if f.non_degradation >= floor]
  return max(fit or above or fresh[:1], key=lambda f: (f.gain, -f.candidate))


def decide(
  config: OnlineConfig,
  fresh: Sequence[Fresh],
  dropped: Sequence[str],
  best: Fresh,
  test: Mapping,
  too_few: Sequence[str],
) -> Choice:
  """The choice, by what score_again, pick and comparing.compare found."""
  reasons = tuple(_doubts(config, best, dropped, test, too_few))
  for why in dropped:
    log.warning("not chosen: %s", why)
  for reason in reasons:
    log.warning("the seed prompts are kept: %s", reason)
  kept, gain = 0 if reasons else best.candidate, test["accuracy_gain"]
  arm = test["evaluation"]["arms"][-1 if kept else 1]
  harm = Interval(arm["gain"], arm["gain_low"], arm["gain_high"])
  return Choice(
    kept=kept,
    best=best.candidate,
    reasons=reasons,
    proven=gain is not None and gain.low > 0,
    harm=harm if harm.high < 0 else None,
    fresh=tuple(fresh),
    dropped=tuple(dropped),
    **test,
  )


def _doubts(
  config: OnlineConfig,
  best: Fresh,
  dropped: Sequence[str],
  test: Mapping,
  too_few: Sequence[str],
) -> Iterator[str]:
  """Why the seed is kept."""
  c, gain = config.choosing, test["score_gain"]

  def below_floor(kept: float, who: str, split: str) -> Iterator[str]:
    if kept < c.non_degradation_floor:
      yield (
        f"with {who}, {kept:.1%} of the {split} problems did not get worse,"
        f" below config.choosing.non_degradation_floor="
        f"{c.non_degradation_floor:g}"
      )

  if best.candidate == 0:
    compared = " that could be compared" if dropped else ""
    yield (
      f"no candidate{compared} scored above them on the validation problems"
    )
    yield from dropped
  else:
    who = f"candidate {best.candidate}"
    yield from below_floor(best.non_degradation, who, "validation")
  yield from too_few
  if gain is None:
    return
  if gain.estimate <= 0:
    yield (
      "on the test split the chosen prompts score no more than they do"
      f" (gain {gain.estimate:+.4f})"
    )
  elif c.require_proof and test["accuracy_gain"].low <= 0:
    yield (
      "the interval of the accuracy's gain on the test split includes 0 and"
      " config.choosing.require_proof is set"
    )
  kept = test["evaluation"]["arms"][-1]["non_degradation_all"]
  yield from below_floor(kept, "the chosen prompts", "test")
