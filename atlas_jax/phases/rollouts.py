"""From scored episodes to the packed rows that a GRPO step trains on.

A rollout is a teaching with its prompt and its advantage, of JSON values
alone, so that it can be sent to the other processes and wait in a checkpoint.
"""

from collections.abc import Sequence

import numpy as np

from atlas_jax.config import GrpoConfig
from atlas_jax.data import packing
from atlas_jax.phases.fitting import TooLong
from atlas_jax.teaching import rewards
from atlas_jax.teaching.rewards import ScoredEpisode


def _advantages(scored_P, cfg):
  rewards_PG = [[t.reward.total for t in s.teachings] for s in scored_P]
  return rewards.group_advantages(rewards_PG, cfg.advantage)


def flat_groups(scored_P: Sequence[ScoredEpisode], cfg: GrpoConfig) -> int:
  """Groups whose rewards are all equal: they carry no gradient."""
  return int(_advantages(scored_P, cfg)[1].sum())


def trainable(scored_P: Sequence[ScoredEpisode], cfg: GrpoConfig) -> list[dict]:
  """The rollouts of a step.

  Left out: groups whose rewards are all equal and teachings without a verdict.
  A teaching that was cut at its length is kept with nothing trained when
  cfg.mask_truncated.

  Raises:
    TooLong: a prompt with its teaching is longer than a row.
  """
  kept = []
  for s, advantages_G, flat in zip(
    scored_P, *_advantages(scored_P, cfg), strict=True
  ):
    for one, advantage in zip(s.teachings, advantages_G, strict=True):
      if flat or one.reward.total is None:
        continue
      said = one.teaching.said
      sample, prompt = said.sample, said.prompt_ids
      if len(prompt) + len(sample.token_ids) > cfg.row_length:
        raise TooLong(
          f"a prompt of {len(prompt)} tokens and its teaching of"
          f" {len(sample.token_ids)} do not fit into"
          f" config.grpo.row_length={cfg.row_length}; raise it, or lower"
          " config.episode.max_teaching_tokens. The question begins"
          f" {s.episode.problem.question[:80]!r}"
        )
      cut = said.finish_reason == "length"
      kept.append(
        {
          "prompt": prompt,
          "completion": sample.token_ids,
          "logprobs": sample.logprobs,
          "version": sample.weight_version,
          "trained": not (cut and cfg.mask_truncated),
          "advantage": float(advantage),
        }
      )
  return kept


def as_sequence(rollout: dict) -> packing.TokenSequence:
  """A rollout of `trainable`, its completion trained, its prompt not."""
  start = len(rollout["prompt"])
  tokens = np.array([*rollout["prompt"], *rollout["completion"]], np.int32)
  mask = np.zeros(len(tokens), np.float32)
  mask[start:] = rollout["trained"]
  behavior = np.zeros(len(tokens), np.float32)
  behavior[start:] = rollout["logprobs"]
  return packing.TokenSequence(
    tokens, mask, behavior, advantage=rollout["advantage"], prompt_length=start
  )


def pack_rollouts(
  kept: Sequence[dict], cfg: GrpoConfig, at_once: int
) -> tuple[packing.PackedBatch, dict[str, float]]:
  """(rows [B, T] of rollouts, whose B is a multiple of `at_once`; numbers)."""
  sequences = [as_sequence(rollout) for rollout in kept]
  packed, stats = packing.pack(
    sequences,
    length=cfg.row_length,
    rows_multiple=at_once,
    share_prompts=cfg.share_prompts,
  )
  return packed, {
    "packing_fill": stats.fill,
    "packing_shared_tokens": stats.shared_tokens,
    "packed_rows": stats.rows,
  }


def summary(scored_P: Sequence[ScoredEpisode]) -> dict[str, float]:
  """Numbers of a step's episodes; a mean of nothing is NaN."""
  scored = [t for s in scored_P for t in s.teachings]
  teachings, given = [t.teaching for t in scored], [t.reward for t in scored]
  known = [r for r in given if r.total is not None]
  lengths = [t.said.tokens for t in teachings]

  def mean(values):
    values = [v for v in values if v is not None]
    return float(np.mean(values)) if values else float("nan")

  numbers = {
    "reward_mean": mean(r.total for r in known),
    "reward_std": float(np.std([r.total for r in known])) if known else 0.0,
    "accuracy_alone": mean(s.pass_rate for s in scored_P),
    "accuracy_taught": mean(s.taught_rate for s in scored_P),
    "unjudged": len(given) - len(known),
    "format_ok_fraction": mean(t.status == "ok" for t in teachings),
    "leak_fraction": mean(t.leaked for t in scored),
    "truncated_fraction": mean(
      t.said.finish_reason == "length" for t in teachings
    ),
    "teacher_tokens_sum": sum(lengths),
    "teacher_tokens_mean": mean(lengths),
    "teacher_tokens_max": max(lengths),
    "teaching_tokens_mean": mean(t.tokens for t in teachings),
    "response_tokens_alone": mean(
      b.tokens for s in scored_P for b in s.episode.baseline
    ),
    "response_tokens_taught": mean(t.taught.tokens for t in teachings),
  }
  for part in known[0].parts if known else ():
    numbers[f"reward_{part}"] = mean(r.parts[part] for r in known)
  return numbers
