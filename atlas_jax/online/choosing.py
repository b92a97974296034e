"""Which prompts are kept, and what may be claimed of them.

1. The `best_of` best candidates on validation, and the seed, are scored again
   on the validation problems, with fresh samples that no choice has seen.
2. The one with the best fresh score is chosen, one that meets the floor of
   non-degradation before one that does not. The gap between the score that it
   was picked by and its fresh score is the winner's curse.
3. It meets the test split once, beside the seed and the student alone.
4. The seed is kept where
     a. the chosen one's fresh score is not above the seed's;
     b. teaching made more problems worse than non_degradation_floor allows,
        on the fresh samples or on the test split;
     c. its score on the test split is not above the seed's, or (with
        require_proof) the interval of the gain includes 0.
   Where every temperature is 0 there are no fresh samples, and the scores of
   the search take their place.
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from atlas_jax.config import PromptsConfig
from atlas_jax.online.budget import Budget, choosing_jobs, test_jobs
from atlas_jax.online.config import OnlineConfig
from atlas_jax.online.journal import Candidate, Journal
from atlas_jax.online.rollouts import Job, Rollout, Rollouts, tokens_of
from atlas_jax.teaching import statistics
from atlas_jax.teaching.statistics import Interval, Outcome

log = logging.getLogger(__name__)


class ChoosingError(RuntimeError):
  """Nothing could be judged, so nothing can be claimed."""


@dataclass(frozen=True)
class Fresh:
  """A candidate scored again. gap: validation score less fresh score."""

  candidate: Candidate
  score: float
  accuracy: float
  non_degradation: float
  pairs: int

  @property
  def gap(self) -> float:
    return self.candidate.score - self.score


@dataclass(frozen=True)
class Choice:
  """What was chosen, why, and how it did.

  kept is the candidate whose prompts are to be used: `best`, or the seed for
  `reasons`. score_gain and accuracy_gain: best less seed on the test split;
  None where the best is the seed. evaluation is that of reports/tables.py.
  """

  fresh: tuple[Fresh, ...]
  best: Fresh
  kept: Candidate
  reasons: tuple[str, ...]
  evaluation: dict
  score_gain: Interval | None
  accuracy_gain: Interval | None
  mcnemar_p: float | None
  pairs: int

  @property
  def proven(self) -> bool:
    """The interval of the accuracy's gain over the seed excludes 0."""
    return self.accuracy_gain is not None and self.accuracy_gain.low > 0


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
  fresh = _score_again(config, rollouts, budget, contenders)
  chosen = _best(fresh, config.choosing.non_degradation_floor)
  reasons = _doubts(config, chosen, fresh[0])
  test = _test(config, rollouts, budget, seed, chosen.candidate)
  if chosen.candidate.index != seed.index:
    reasons += _test_doubts(config, test)
  for reason in reasons:
    log.warning("the seed prompts are kept: %s", reason)
  return Choice(
    fresh=tuple(fresh),
    best=chosen,
    kept=seed if reasons else chosen.candidate,
    reasons=tuple(reasons),
    **test,
  )


def outcome(rollout: Rollout) -> Outcome:
  """The guided solution of a scored rollout, for statistics."""
  (teaching,), (verdict,) = (
    rollout.scored.episode.teachings,
    rollout.scored.guided,
  )
  (leaked,) = rollout.scored.leaked
  taught = rollout.taught
  replies = (taught.approach_reply, taught.teaching_reply, taught.guided)
  return Outcome(
    problem_id=rollout.problem.id,
    correct=verdict.score,
    completed=verdict.completed,
    response_tokens=teaching.guided.tokens,
    teaching_tokens=teaching.tokens,
    seconds=sum(reply.seconds for reply in replies),
    leaked=leaked,
  )


def outcome_alone(rollout: Rollout) -> Outcome:
  """The unaided solution of a scored rollout."""
  (verdict,) = rollout.scored.baseline
  return Outcome(
    problem_id=rollout.problem.id,
    correct=verdict.score,
    completed=verdict.completed,
    response_tokens=tokens_of(rollout.baseline),
    teaching_tokens=0,
    seconds=rollout.baseline.seconds,
    leaked=False,
  )


def _evaluate(
  rollouts: Rollouts, jobs: Sequence[Job], what: str
) -> dict[PromptsConfig, list[Rollout]]:
  """The scored rollouts of each set of prompts."""
  found: dict[PromptsConfig, list[Rollout]] = {}
  for job, made in zip(jobs, rollouts.evaluate(jobs), strict=True):
    scored = [r for r in made if r.score is not None]
    found.setdefault(job.prompts, []).extend(scored)
  if not all(found.values()):
    raise ChoosingError(f"none of the {what} could be judged")
  return found


def _mean(values) -> float:
  values = list(values)
  return sum(values) / len(values)


def _score_again(config, rollouts, budget, contenders) -> list[Fresh]:
  c = config.choosing
  prompts = [x.prompts for x in contenders]
  if c.fresh_samples > 0:
    jobs = choosing_jobs(prompts, budget.sets, c.fresh_samples)
    found = _evaluate(rollouts, jobs, "fresh samples")
  else:
    jobs = [Job(p, budget.sets.validation, "validation") for p in prompts]
    found = {job.prompts: rollouts.known(job) for job in jobs}
    if not all(found.values()):
      raise ChoosingError("none of the validation problems could be judged")
  out = []
  # Compared on what all of them have a score for.
  keys = [{(r.problem.id, r.replicate) for r in found[p]} for p in prompts]
  common = set.intersection(*keys)
  if not common:
    raise ChoosingError("the candidates share no problem that was judged")
  for candidate in contenders:
    mine = [
      r
      for r in found[candidate.prompts]
      if (r.problem.id, r.replicate) in common
    ]
    out.append(
      Fresh(
        candidate=candidate,
        score=_mean(r.score for r in mine),
        accuracy=_mean(r.objectives["accuracy"] for r in mine),
        non_degradation=_mean(r.objectives["non_degradation"] for r in mine),
        pairs=len(mine),
      )
    )
  return out


def _best(fresh: Sequence[Fresh], floor: float) -> Fresh:
  """By fresh score; of equals the earlier, so the seed first."""
  seed = fresh[0]
  above = [f for f in fresh[1:] if f.score > seed.score]
  fit = [f for f in above if f.non_degradation >= floor]
  return max(
    fit or above or [seed], key=lambda f: (f.score, -f.candidate.index)
  )


def _doubts(config, chosen: Fresh, seed: Fresh) -> list[str]:
  """Why the seed is kept, as far as validation tells."""
  if chosen.candidate.index == seed.candidate.index:
    return ["no candidate scored above them on the validation problems"]
  floor = config.choosing.non_degradation_floor
  if chosen.non_degradation < floor:
    return [
      f"with candidate {chosen.candidate.index}, {chosen.non_degradation:.1%}"
      " of the validation problems did not get worse, below"
      f" config.choosing.non_degradation_floor={floor:g}"
    ]
  return []


def _test(config, rollouts, budget, seed, best) -> dict:
  """Arms and gains on the test split, as keyword arguments of Choice."""
  prompts = list(dict.fromkeys([seed.prompts, best.prompts]))
  found = _evaluate(rollouts, test_jobs(prompts, budget.sets), "test problems")
  c = config.choosing
  of_seed = found[seed.prompts]
  everything = [r for p in prompts for r in found[p]]
  by_problem = {r.problem.id: outcome_alone(r) for r in everything}
  alone = list(by_problem.values())

  def arm(name, outcomes, against):
    return statistics.arm_result(
      name,
      outcomes,
      alone=against,
      resamples=c.bootstrap_resamples,
      seed=config.seed,
    )

  arms = [
    arm("student alone", alone, None),
    arm("seed prompts", [outcome(r) for r in of_seed], alone),
  ]
  gains = dict.fromkeys(("score_gain", "accuracy_gain", "mcnemar_p"))
  pairs = len(of_seed)
  if best.index != seed.index:
    of_best = found[best.prompts]
    name = f"candidate {best.index}"
    arms.append(arm(name, [outcome(r) for r in of_best], alone))
    before = {r.problem.id: r for r in of_seed}
    after = {r.problem.id: r for r in of_best if r.problem.id in before}
    if not after:
      raise ChoosingError("seed and best share no judged test problem")
    pairs = len(after)
    gains = _gains(config, [(before[i], r) for i, r in after.items()])
  evaluation = {
    "problems": len(budget.sets.test),
    "split": "test",
    "arms": [dataclasses.asdict(a) for a in arms],
  }
  return {"evaluation": evaluation, "pairs": pairs, **gains}


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


def _test_doubts(config, test: dict) -> list[str]:
  """Why the seed is kept, as the test split tells."""
  c = config.choosing
  gain = test["score_gain"]
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
