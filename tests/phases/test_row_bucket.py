"""How rollouts become packed rows."""

import dataclasses

from atlas_jax.config import GrpoConfig
from atlas_jax.data import packing
from atlas_jax.phases import rollouts


def _rollout(prompt, completion):
  return {
    "prompt": prompt,
    "completion": completion,
    "logprobs": [-1.0] * len(completion),
    "trained": True,
    "advantage": 1.0,
  }


def test_share_prompts_decides_how_many_rows_a_group_needs():
  sequences = [
    rollouts.as_sequence(_rollout([3] * 10, [n] * 3)) for n in range(4, 10)
  ]
  # 6 sequences of 13 tokens; shared 9 + 6 branches of 4 fill one row of 33.
  apart = GrpoConfig(row_length=33, share_prompts=False)
  shared = dataclasses.replace(apart, share_prompts=True)
  assert rollouts.row_bucket(sequences, apart, unit=1) == 3
  assert rollouts.row_bucket(sequences, shared, unit=1) == 1


def test_rows_come_in_few_numbers():
  """1 to 8, 10, 12, 14, 16, ... times the unit."""
  cfg = GrpoConfig(row_length=4)
  sequences = [rollouts.as_sequence(_rollout([1], [2, 3, 4]))] * 5
  assert rollouts.row_bucket(sequences, cfg, unit=1) == 5
  assert rollouts.row_bucket(sequences * 5, cfg, unit=1) == 28
  assert rollouts.row_bucket(sequences, cfg, unit=2) == 6
  assert rollouts.row_bucket(sequences[:4], cfg, unit=1) == 4


def test_a_rollout_keeps_its_prompt_length():
  sequence = rollouts.as_sequence(_rollout([3, 4, 5], [6, 7]))
  assert sequence.prompt_length == 3
  batch, _ = packing.pack(
    [sequence, sequence], length=8, rows_multiple=1, share_prompts=True
  )
  assert batch.tokens.tolist() == [[3, 4, 5, 6, 7, 5, 6, 7]]
