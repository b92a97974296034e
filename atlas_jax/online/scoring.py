"""What a rollout is worth: replies to an episode, an episode to a score.

A reply that came without an answer in it (empty, an outline or a teaching
that states nothing, cut at its length) is judged as it is: not right, and not
completed. Where a model failed (`FAILED`) nothing is known, and nothing is
scored.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from atlas_jax.config import RewardConfig
from atlas_jax.data.problems import Problem
from atlas_jax.online import protocol
from atlas_jax.online.config import ObjectivesConfig
from atlas_jax.online.replies import Reply
from atlas_jax.serving.client import Completion
from atlas_jax.teaching.episode import Teaching, TeachingEpisode
from atlas_jax.teaching.requests import Solution
from atlas_jax.teaching.rewards import ScoredEpisode

# Statuses of replies that say nothing about the prompts.
FAILED = ("error", "timeout")
# Efficiency in full: the objectives weigh it.
REWARD = RewardConfig(efficiency_weight=1.0)


@dataclass(frozen=True)
class Lack:
  """What a rollout lacks: `why`, None for nothing; down: a model failed."""

  why: str | None = None
  down: bool = False


def lack(baseline: Reply, taught: protocol.Taught) -> Lack:
  """The failure among the replies, else the first that holds no answer."""
  found = []
  if not protocol.has_text(baseline):
    found.append(("baseline", baseline.status, baseline))
  if taught.guided is None or not protocol.has_text(taught.guided):
    last = taught.guided or taught.teaching_reply or taught.approach_reply
    found.append((taught.stage, taught.status, last))
  for stage, status, reply in sorted(found, key=lambda x: x[1] not in FAILED):
    text = f"{stage}: {status} {reply.error or ''}".strip()
    return Lack(text, status in FAILED)
  return Lack()


def tokens_of(reply: Reply) -> int:
  """Tokens of a reply; about one in four bytes where nobody counted."""
  if reply.completion_tokens is not None:
    return reply.completion_tokens
  return max(1, len((reply.text or "").encode()) // 4)


def _finish_reason(reply: Reply) -> str:
  return "length" if reply.status == "truncated" else "stop"


def _solution(reply: Reply | None) -> Solution:
  if reply is None:  # the rollout ended before it
    return Solution("", 0, "stop")
  return Solution(reply.text or "", tokens_of(reply), _finish_reason(reply))


def episode(
  problem: Problem, baseline: Reply, taught: protocol.Taught
) -> TeachingEpisode:
  """The same as a training episode, as far as texts go."""
  reply = taught.teaching_reply or Reply("empty", completion_tokens=0)
  text = reply.text or ""
  share = len(taught.teaching or "") / max(1, len(text))
  replies = {
    "baseline": baseline,
    "probe": taught.approach_reply,
    "teach": reply,
    "guided": taught.guided,
  }
  return TeachingEpisode(
    problem=problem,
    baseline=(_solution(baseline),),
    approach=taught.approach or "",
    teacher_prompt_ids=(),
    teachings=(
      Teaching(
        Completion(text, (), (), _finish_reason(reply), ""),
        taught.teaching,
        taught.teaching_status or "missing",
        # The teaching's part of what the teacher wrote.
        math.ceil(share * tokens_of(reply)),
        _solution(taught.guided),
      ),
    ),
    seconds={stage: r.seconds for stage, r in replies.items() if r is not None},
  )


def objectives_of(scored: ScoredEpisode) -> dict[str, float] | None:
  """What the search may look at, each in [0, 1]; None without a verdict.

  accuracy         the guided solution is right
  non_degradation  it is not worse than the unaided one
  efficiency       the share of the unaided response's tokens that a right
                   guided one saved
  completion       it states an answer
  """
  (verdict,), (reward,) = scored.guided, scored.rewards
  if reward.total is None:
    return None
  return {
    "accuracy": verdict.score,
    "non_degradation": float(verdict.score >= scored.pass_rate),
    "efficiency": reward.parts["efficiency"],
    "completion": float(verdict.completed),
  }


def score_of(
  objectives: Mapping[str, float], leaked: bool, config: ObjectivesConfig
) -> float:
  """The weighted mean of the objectives, less for a teaching that leaks."""
  weights = {name: getattr(config, name) for name in objectives}
  mean = sum(weights[n] * value for n, value in objectives.items())
  mean /= sum(weights.values())
  return max(0.0, mean - config.leak_penalty * leaked)
