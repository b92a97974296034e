"""What a teaching is worth: how much it improved the frozen student.

With b the mean score of the student's unaided solutions, B their mean length,
g the score of the taught one and T its length (both in tokens):

    improvement     g * (1 - b)
    degradation    -(1 - g) * b * degradation_penalty
    efficiency      g * efficiency_weight * max(0, (B - T) / B)
    format         -format_penalty, unless there is exactly one closed,
                    non-empty <teaching>
    leak           -leak_penalty, if the teaching states the answer
    length         -length_cost * (teaching tokens / max_teaching_tokens)
    NAME            weight * what the function of config.reward.extra returns

and the reward is their sum. A score is 1 (right) or 0, or what a verifier of
the user's says between them. For b and g of 0 and 1 the first three are the
published rule (fixes it: 1 + efficiency; both right: efficiency; breaks it:
-degradation_penalty; both wrong: 0); between them they are its expectation.

A solution that could not be judged and a term that failed give no reward
(None), never 0: the teaching is left out of its group.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from atlas_jax.config import RewardConfig
from atlas_jax.data.problems import Problem
from atlas_jax.teaching import equality
from atlas_jax.teaching.answers import AnswerChecker, Verdict
from atlas_jax.teaching.protocol import Teaching, TeachingEpisode
from atlas_jax.teaching.speakers import Said

# As in the GRPO of ATLAS and TRL: keeps a small spread from exploding.
_STD_FLOOR = 1e-4
_NO_SPREAD = 1e-9


@dataclass(frozen=True)
class Reward:
  """total is the sum of the parts; None: there was no verdict."""

  total: float | None
  parts: Mapping[str, float]


@dataclass(frozen=True)
class ScoredTeaching:
  """A judged teaching: what a term of config.reward.extra is called with.

  verdict is that on teaching.taught; reward has the terms before this one.
  """

  problem: Problem
  baseline: tuple[Said, ...]
  baseline_verdicts: tuple[Verdict, ...]
  teaching: Teaching
  verdict: Verdict
  leaked: bool
  reward: Reward


@dataclass(frozen=True)
class ScoredEpisode:
  """An episode with its verdicts, those on the unaided solutions first."""

  episode: TeachingEpisode
  baseline: tuple[Verdict, ...]
  teachings: tuple[ScoredTeaching, ...]

  @property
  def pass_rate(self) -> float | None:
    """b over the unaided solutions that could be judged."""
    return mean_score(self.baseline)

  @property
  def taught_rate(self) -> float | None:
    """Share of the taught solutions, of those judged, that are right."""
    return mean_score([t.verdict for t in self.teachings])


def mean_score(verdicts: Sequence[Verdict]) -> float | None:
  """The share that is right of those judged; None if none was."""
  scores = [v.score for v in verdicts if v.score is not None]
  return sum(scores) / len(scores) if scores else None


def reward(
  *,
  pass_rate: float | None,
  baseline_tokens: float,
  taught: float | None,
  taught_tokens: int,
  well_formed: bool,
  leaked: bool,
  teaching_tokens: int,
  max_teaching_tokens: int,
  config: RewardConfig,
) -> Reward:
  """The formula of the module.

  Args:
    pass_rate: b in [0, 1]; None if no unaided solution could be judged.
    baseline_tokens: B, the mean length of the unaided responses.
    taught: g in [0, 1]; None if the taught solution could not be judged.
    taught_tokens: T.
    well_formed: whether the teaching had its tags right.
    leaked: whether it states the answer.
    teaching_tokens, max_teaching_tokens: its length and the longest allowed.
    config: the weights.
  """
  if pass_rate is None or taught is None:
    return Reward(None, {})
  saved = 0.0
  if baseline_tokens > 0:
    saved = max(0.0, (baseline_tokens - taught_tokens) / baseline_tokens)
  lost = (1.0 - taught) * pass_rate
  parts = {
    "improvement": taught * (1.0 - pass_rate),
    "degradation": -lost * config.degradation_penalty,
    "efficiency": taught * config.efficiency_weight * saved,
    "format": 0.0 if well_formed else -config.format_penalty,
    "leak": -config.leak_penalty if leaked else 0.0,
    "length": -config.length_cost * teaching_tokens / max_teaching_tokens,
  }
  return Reward(sum(parts.values()), parts)


def score_episodes(
  episodes: Sequence[TeachingEpisode],
  *,
  checker: AnswerChecker,
  config: RewardConfig,
  max_teaching_tokens: int,
) -> list[ScoredEpisode]:
  """Judges every solution of the episodes and rewards every teaching."""
  verdicts = iter(
    checker.check_many(
      (e.problem, s.text, s.finish_reason)
      for e in episodes
      for s in (*e.baseline, *(t.taught for t in e.teachings))
    )
  )
  scored = [
    _score(
      e,
      tuple(next(verdicts) for _ in e.baseline),
      tuple(next(verdicts) for _ in e.teachings),
      config,
      max_teaching_tokens,
    )
    for e in episodes
  ]
  for name, term in config.extra.items():
    scored = _with_term(scored, name, term, checker)
  return scored


def _score(episode, baseline, taught, config, max_tokens) -> ScoredEpisode:
  judged = zip(episode.baseline, baseline, strict=True)
  lengths = [s.tokens for s, verdict in judged if verdict.score is not None]
  teachings = []
  for teaching, verdict in zip(episode.teachings, taught, strict=True):
    text = teaching.text
    leaked = text is not None and leaks(text, episode.problem)
    worth = reward(
      pass_rate=mean_score(baseline),
      baseline_tokens=sum(lengths) / len(lengths) if lengths else 0.0,
      taught=verdict.score,
      taught_tokens=teaching.taught.tokens,
      well_formed=teaching.status == "ok",
      leaked=leaked,
      teaching_tokens=teaching.tokens,
      max_teaching_tokens=max_tokens,
      config=config,
    )
    asked = episode.problem, episode.baseline, baseline
    teachings.append(ScoredTeaching(*asked, teaching, verdict, leaked, worth))
  return ScoredEpisode(episode, baseline, tuple(teachings))


def _with_term(
  scored, name: str, term: Mapping, checker
) -> list[ScoredEpisode]:
  """The episodes with one more part in each reward that there is."""
  asked = [t for s in scored for t in s.teachings if t.reward.total is not None]
  values = iter(checker.own_many(term["function"], asked))

  def added(one: ScoredTeaching) -> ScoredTeaching:
    value = None if one.reward.total is None else next(values)
    if value is None:
      return replace(one, reward=Reward(None, {}))
    parts = {**one.reward.parts, name: term["weight"] * value}
    return replace(one, reward=Reward(sum(parts.values()), parts))

  return [replace(s, teachings=tuple(map(added, s.teachings))) for s in scored]


def leaks(teaching: str, problem: Problem) -> bool:
  """Whether the teaching states the gold answer as a number or whole words.

  An answer that already stands in the question gives nothing away, except a
  choice. That counts only as '(B)' or 'B)' without other such letters, or after
  'answer', 'option', 'choice': as a bare letter it may be any word.
  """
  gold, asked = problem.answer, problem.question
  letter, _ = equality.choice(gold)
  if len(letter) == 1:
    named = r"(?i:answer|option|choice)(?i:\s+is|:)?\s+" + letter + r"\b"
    alone = {*re.findall(r"\b([A-Z])\)", teaching)} == {letter}
    return alone or re.search(named, teaching) is not None
  # A division in the question is asked for, not given: "2/4" states no 1/2.
  if "/" in gold:
    given = "".join(gold.split()) in "".join(asked.split())
  else:
    given = _states(asked.replace("/", " ; "), gold)
  return not given and _states(teaching, gold)


def _states(text: str, answer: str) -> bool:
  if gold := equality.parse_number(answer):
    stated = (gold.value, gold.kind.strip("%"))
    found = equality.numbers_in(text)
    return any((n.value, n.kind.strip("%")) == stated for n in found)
  words, text = (equality.normalise(t).casefold() for t in (answer, text))
  return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def group_advantages(
  rewards: Sequence[Sequence[float | None]] | Float[np.ndarray, "P G"],
  kind: str,
) -> tuple[Float[np.ndarray, "P G"], Bool[np.ndarray, " P"]]:
  """Advantages in float64, and which groups carry no gradient.

  group: (r - mean_g) / (std_g + 1e-4)     [Shao et al. 2024, as TRL has it]
  batch: (r - mean_g) / (std_all + 1e-4)
  centred: r - mean_g                      [Dr. GRPO, Liu et al. 2025]
  Standard deviations have ddof 1. A missing reward (None or NaN) is left out
  of mean and std and has advantage 0. A group without spread, or with fewer
  than two rewards, has advantages 0 and is marked True in the second array.
  """
  values = np.ma.masked_invalid(np.array(rewards, np.float64))
  centred = values - values.mean(axis=1, keepdims=True)
  std = values.std(axis=1, ddof=1)
  flat = std.filled(0.0) <= _NO_SPREAD  # of fewer than two, std is masked
  scale = {
    "group": std[:, None] + _STD_FLOOR,
    "batch": values.std(ddof=1) + _STD_FLOOR,
    "centred": 1.0,
  }[kind]
  return np.where(flat[:, None], 0.0, (centred / scale).filled(0.0)), flat
