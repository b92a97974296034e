"""Scored episodes as JSON: one line of a run's episodes file each.

What a server of the run sampled for the teacher is there exactly (token ids,
sampler log-probs, weight version), beside the texts that a person reads.
"""

from atlas_jax.serving.client import Completion
from atlas_jax.teaching.answers import Verdict
from atlas_jax.teaching.episode import Attempt
from atlas_jax.teaching.rewards import ScoredEpisode, leaks
from atlas_jax.teaching.speakers import Said

# Counts the changes of a line's keys: 1 had approach and guided in place of
# probe and taught, and neither kind, leaked nor weight_version of an attempt;
# 2 did not have the student of an attempt, 3 not its prompts and checkpoint.
SCHEMA = 4


def _solution(solution: Said, verdict: Verdict) -> dict:
  return {
    "text": solution.text,
    "tokens": solution.tokens,
    "finish_reason": solution.finish_reason,
    "status": verdict.status,
    "score": verdict.score,
    "answer": verdict.answer,
    "rule": verdict.rule,
  }


def _sample(sample: Completion | None) -> dict:
  """What can be trained on, where there is anything."""
  if sample is None:
    return {}
  return {
    "weight_version": sample.weight_version,
    "token_ids": list(sample.token_ids),
    "logprobs": list(sample.logprobs),
  }


def episode_json(scored: ScoredEpisode, step: int) -> dict:
  """One training episode as plain JSON values."""
  episode = scored.episode
  teachings = []
  for one in scored.teachings:
    teaching, said = one.teaching, one.teaching.said
    teachings.append(
      {
        "text": said.text,
        "teaching": teaching.text,
        "status": teaching.status,
        "leaked": one.leaked,
        "tokens": teaching.tokens,
        "taught": _solution(teaching.taught, one.verdict),
        "reward": one.reward.total,
        "reward_parts": dict(one.reward.parts),
        "finish_reason": said.finish_reason,
        **_sample(said.sample),
      }
    )
  return {
    "schema": SCHEMA,
    "step": step,
    "id": episode.problem.id,
    "question": episode.problem.question,
    "answer": episode.problem.answer,
    "kind": episode.problem.kind,
    "probe": episode.probe,
    "pass_rate": scored.pass_rate,
    "baseline": [
      _solution(solution, verdict)
      for solution, verdict in zip(
        episode.baseline, scored.baseline, strict=True
      )
    ],
    "teachings": teachings,
    "teacher_prompt_ids": list(episode.teachings[0].said.prompt_ids),
    "seconds": dict(episode.seconds),
  }


def attempt_json(arm: str, attempt: Attempt, verdict: Verdict) -> dict:
  """One attempt of an evaluation as plain JSON values."""
  problem, taught = attempt.problem, attempt.teaching
  others = {key: x for key, x in vars(attempt).items() if key != "problem"}
  return {
    "schema": SCHEMA,
    "arm": arm,
    "id": problem.id,
    "question": problem.question,
    "answer": problem.answer,
    "kind": problem.kind,
    **others,
    "leaked": taught is not None and leaks(taught, problem),
    "solution": _solution(attempt.solution, verdict),
  }
