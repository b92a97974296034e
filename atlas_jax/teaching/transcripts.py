"""Scored episodes as JSON: one line of a run's episodes file each.

What the teacher sampled is there exactly (token ids, sampler log-probs,
weight version), beside the texts that a person reads.
"""

from atlas_jax.teaching.answers import Verdict
from atlas_jax.teaching.arms import Attempt
from atlas_jax.teaching.requests import Solution
from atlas_jax.teaching.rewards import ScoredEpisode


def _solution(solution: Solution, verdict: Verdict) -> dict:
  return {
    "text": solution.text,
    "tokens": solution.tokens,
    "finish_reason": solution.finish_reason,
    "status": verdict.status,
    "score": verdict.score,
    "answer": verdict.answer,
    "rule": verdict.rule,
  }


def episode_json(scored: ScoredEpisode, step: int) -> dict:
  """One training episode as plain JSON values."""
  episode = scored.episode
  teachings = []
  for teaching, verdict, leaked, reward in zip(
    episode.teachings,
    scored.guided,
    scored.leaked,
    scored.rewards,
    strict=True,
  ):
    completion = teaching.completion
    teachings.append(
      {
        "text": completion.text,
        "teaching": teaching.text,
        "status": teaching.status,
        "leaked": leaked,
        "tokens": teaching.tokens,
        "guided": _solution(teaching.guided, verdict),
        "reward": reward.total,
        "reward_parts": dict(reward.parts),
        "finish_reason": completion.finish_reason,
        "weight_version": completion.weight_version,
        "token_ids": list(completion.token_ids),
        "logprobs": list(completion.logprobs),
      }
    )
  return {
    "step": step,
    "id": episode.problem.id,
    "question": episode.problem.question,
    "answer": episode.problem.answer,
    "approach": episode.approach,
    "pass_rate": scored.pass_rate,
    "baseline": [
      _solution(solution, verdict)
      for solution, verdict in zip(
        episode.baseline, scored.baseline, strict=True
      )
    ],
    "teachings": teachings,
    "teacher_prompt_ids": list(episode.teacher_prompt_ids),
    "seconds": dict(episode.seconds),
  }


def attempt_json(arm: str, attempt: Attempt, verdict: Verdict) -> dict:
  """One attempt of an evaluation as plain JSON values."""
  return {
    "arm": arm,
    "id": attempt.problem.id,
    "sample": attempt.sample,
    "question": attempt.problem.question,
    "answer": attempt.problem.answer,
    "approach": attempt.approach,
    "teacher_text": attempt.teacher_text,
    "teaching": attempt.teaching,
    "teaching_tokens": attempt.teaching_tokens,
    "status": attempt.status,
    "solution": _solution(attempt.solution, verdict),
    "seconds": attempt.seconds,
  }
