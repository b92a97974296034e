"""What an evaluation may claim: arms, intervals, tests on paired attempts.

An attempt is a line of an evaluation's episodes (transcripts.py).

Sources: Wilson 1927 (interval of a share); McNemar 1947, in its exact
binomial form; Efron 1979 (percentile bootstrap, here over problems).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atlas_jax.teaching.answers import Verdict

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
  """An estimate and its 95% interval."""

  estimate: float
  low: float
  high: float


def wilson(successes: float, n: int) -> Interval:
  """The 95% interval of a share: `successes` of `n`.

  Raises:
    ValueError: n is 0.
  """
  if n == 0:
    raise ValueError("a share of 0 problems has no interval")
  p, z2 = successes / n, _Z95**2
  centre = (p + z2 / (2 * n)) / (1 + z2 / n)
  half = _Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
  return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def paired_bootstrap(
  before: Sequence[float], after: Sequence[float], *, resamples: int, seed: int
) -> Interval:
  """Mean of after - before with its percentile interval over pairs.

  Raises:
    ValueError: no pairs, or the two differ in length.
  """
  gain = np.asarray(after, np.float64) - np.asarray(before, np.float64)
  if gain.ndim != 1 or gain.size == 0:
    raise ValueError(f"expected pairs of numbers, got shape {gain.shape}")
  draw = np.random.default_rng(seed).integers
  means = [  # one row at a time: memory stays small
    gain[draw(0, gain.size, gain.size)].mean() for _ in range(resamples)
  ]
  return _percentiles(gain.mean(), means)


def nested_bootstrap(
  differences: Sequence[Sequence[float]], *, resamples: int, seed: int
) -> Interval:
  """The mean of the seeds' means, with an interval over seeds and problems.

  Each resample draws seeds and, in every one of them, its problems anew. (With
  one seed the interval is over problems alone.)

  Args:
    differences: of each seed the differences of its problems.
    resamples, seed: of the bootstrap.

  Raises:
    ValueError: there is no difference.
  """
  groups = [np.asarray(d, np.float64) for d in differences if len(d)]
  if not groups:
    raise ValueError("no seed has a pair to compare")
  rng = np.random.default_rng(seed)
  means = np.empty(resamples)
  for i in range(resamples):
    drawn = [groups[g] for g in rng.integers(0, len(groups), len(groups))]
    means[i] = np.mean(
      [d[rng.integers(0, d.size, d.size)].mean() for d in drawn]
    )
  return _percentiles(np.mean([d.mean() for d in groups]), means)


def _percentiles(estimate: float, means: Sequence[float]) -> Interval:
  """The estimate with the middle 95% of the resamples' means."""
  low, high = np.quantile(means, (0.025, 0.975))
  return Interval(float(estimate), float(low), float(high))


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
  """Two-sided exact p that right and wrong are equally likely to flip."""
  flipped = [(b, a) for b, a in zip(before, after, strict=True) if b != a]
  n = len(flipped)
  k = min(sum(b for b, _ in flipped), sum(a for _, a in flipped))
  tail = sum(math.comb(n, i) for i in range(k + 1))
  return min(1.0, 2 * tail / 2**n)


def non_degradation(
  before: Sequence[float], after: Sequence[float]
) -> tuple[float, float | None]:
  """(share of all pairs, of the pairs right before) that did not get worse.

  With several samples a problem, before and after are rates: a problem is
  worse when its rate fell, and counts as right before when its rate was above
  one half. The second is None if there was none.
  """
  kept = [a >= b for b, a in zip(before, after, strict=True)]
  of_right = [ok for ok, b in zip(kept, before, strict=True) if b > 0.5]
  over_right = sum(of_right) / len(of_right) if of_right else None
  return sum(kept) / len(kept), over_right


@dataclass(frozen=True)
class ArmResult:
  """One arm. Lengths in tokens a response, shares in [0, 1].

  The accuracy is the mean over problems of their samples' means. pass_at_k is
  the share of problems of which any of the `samples` is right; None with one
  sample. gain, non-degradation, p and what is made of the gain compare with the
  student alone on the problems that both arms judged; None in its own arm:

    gain_per_teaching_token    gain / mean tokens of a teaching   [TES of ATLAS]
    gain_per_interaction       gain / what a teacher is asked for a problem: 1
                               where it teaches, None elsewhere   [LR of ATLAS]
  """

  name: str
  problems: int
  unjudged: int
  accuracy: float
  accuracy_low: float
  accuracy_high: float
  completion_rate: float
  response_tokens: float
  teaching_tokens: float
  seconds_per_problem: float
  leak_rate: float
  samples: int = 1
  pass_at_k: float | None = None
  gain: float | None = None
  gain_low: float | None = None
  gain_high: float | None = None
  mcnemar_p: float | None = None
  non_degradation_all: float | None = None
  non_degradation_correct: float | None = None
  gain_per_teaching_token: float | None = None
  gain_per_interaction: float | None = None


def scores(attempts: Iterable[Mapping]) -> dict[str, list[float]]:
  """problem -> the scores of its samples that were judged."""
  found: dict[str, list[float]] = {}
  for line in attempts:
    if line["solution"]["score"] is not None:
      found.setdefault(line["id"], []).append(line["solution"]["score"])
  return found


def means(of_problem: Mapping[str, Sequence[float]]) -> dict[str, float]:
  """problem -> the mean of its scores."""
  return {key: sum(of) / len(of) for key, of in of_problem.items()}


def rates(attempts: Iterable[Mapping]) -> dict[str, float]:
  """problem -> the mean score of its samples that were judged."""
  return means(scores(attempts))


def accuracy_interval(
  of_problem: Mapping[str, Sequence[float]], *, resamples: int, seed: int
) -> Interval:
  """The mean over problems of their samples' means, with its interval.

  With one sample a problem, of 0 or 1, Wilson's; else the samples of a problem
  are one cluster, and the interval is a bootstrap over problems.
  """
  known = list(means(of_problem).values())
  clustered = any(len(values) > 1 for values in of_problem.values())
  if not clustered and set(known) <= {0.0, 1.0}:
    return wilson(sum(known), len(known))
  nothing = [0.0] * len(known)
  return paired_bootstrap(nothing, known, resamples=resamples, seed=seed)


def arm_result(
  name: str,
  attempts: Sequence[Mapping],
  *,
  alone: Sequence[Mapping] | None,
  resamples: int,
  seed: int,
) -> ArmResult:
  """One arm's numbers, over problems (samples of one are averaged first).

  Args:
    name: for the table.
    attempts: of this arm, as lines of the episodes.
    alone: of the student alone; None in its own arm.
    resamples, seed: of the bootstrap.

  Raises:
    ValueError: no attempt could be judged, or (with alone) no pair.
  """
  judged = scores(attempts)
  own = means(judged)
  if not own:
    raise ValueError(f"arm {name}: none of its attempts could be judged")
  accuracy = accuracy_interval(judged, resamples=resamples, seed=seed)
  samples, against = max(map(len, judged.values())), {}

  said = [line["solution"] for line in attempts]

  def mean(field: str, lines: Sequence[Mapping] = attempts) -> float:
    return float(np.mean([line[field] for line in lines]))

  if alone is not None:
    base = rates(alone)
    common = [key for key in own if key in base]
    if not common:
      raise ValueError(f"arm {name} shares no judged problem with the baseline")
    before = [base[key] for key in common]
    after = [own[key] for key in common]
    gain = paired_bootstrap(before, after, resamples=resamples, seed=seed)
    over_all, over_right = non_degradation(before, after)
    teaching_tokens = mean("teaching_tokens")
    asked = any(line["teacher_text"] is not None for line in attempts)
    against = {
      "gain_per_teaching_token": gain.estimate / teaching_tokens
      if teaching_tokens
      else None,
      "gain_per_interaction": gain.estimate if asked else None,
      "gain": gain.estimate,
      "gain_low": gain.low,
      "gain_high": gain.high,
      "mcnemar_p": mcnemar([b > 0.5 for b in before], [a > 0.5 for a in after]),
      "non_degradation_all": over_all,
      "non_degradation_correct": over_right,
    }
  return ArmResult(
    name=name,
    problems=len(own),
    unjudged=sum(one["score"] is None for one in said),
    accuracy=accuracy.estimate,
    accuracy_low=accuracy.low,
    accuracy_high=accuracy.high,
    completion_rate=float(
      np.mean([Verdict(one["status"], None, "").completed for one in said])
    ),
    response_tokens=mean("tokens", said),
    teaching_tokens=mean("teaching_tokens"),
    seconds_per_problem=mean("seconds"),
    leak_rate=mean("leaked"),
    samples=samples,
    pass_at_k=float(np.mean([max(s) > 0.5 for s in judged.values()]))
    if samples > 1
    else None,
    **against,
  )


def by_kind(
  attempts: Sequence[Mapping], alone: Sequence[Mapping]
) -> dict[str, dict[str, float]]:
  """kind -> how many problems both arms judged, and their two accuracies."""
  base, own = rates(alone), rates(attempts)
  kinds: dict[str, list[str]] = {}
  for key, kind in {line["id"]: line["kind"] for line in attempts}.items():
    if kind is not None and key in base and key in own:
      kinds.setdefault(kind, []).append(key)
  return {
    kind: {
      "problems": len(keys),
      "accuracy_alone": sum(base[key] for key in keys) / len(keys),
      "accuracy": sum(own[key] for key in keys) / len(keys),
    }
    for kind, keys in sorted(kinds.items())
  }
