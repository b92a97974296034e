"""How rollouts become packed rows."""

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


def test_a_rollout_keeps_its_prompt_length():
  sequence = rollouts.as_sequence(_rollout([3, 4, 5], [6, 7]))
  assert sequence.prompt_length == 3
  batch, _ = packing.pack(
    [sequence, sequence], length=8, rows_multiple=1, share_prompts=True
  )
  assert batch.tokens.tolist() == [[3, 4, 5, 6, 7, 5, 6, 7]]
