"""The work of a step: floating-point operations, counted by hand.

XLA counts the body of a loop once, so its figures are of no use here.
"""

import dataclasses

import numpy as np

from atlas_jax.config import GrpoConfig, RunConfig, SftConfig
from atlas_jax.data import packing
from atlas_jax.model.architecture import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Work:
  """What a batch asks for."""

  rows: int
  row_length: int
  tokens: int  # real ones
  scored: int  # those whose log-probs are wanted
  pairs: int  # of a query and a key that it sees

  @property
  def places(self) -> int:
    """Tokens that are computed, padding included."""
    return self.rows * self.row_length


def visible_pairs(batch: packing.PackedBatch) -> int:
  """Pairs of a query and a key that it sees, by the rules of data/packing."""
  total = 0
  for segments, sequences in zip(
    batch.segment_ids, batch.sequence_ids, strict=True
  ):
    for segment in np.unique(segments[segments > 0]):
      own = sequences[segments == segment]
      _, sizes = np.unique(own[own > 0], return_counts=True)
      shared = int(np.sum(own == 0))
      total += shared * (shared + 1) // 2
      total += int(np.sum(shared * sizes + sizes * (sizes + 1) // 2))
  return total


def of_batch(batch: packing.PackedBatch) -> Work:
  rows, length = batch.tokens.shape
  return Work(
    rows=rows,
    row_length=length,
    tokens=int(np.sum(batch.segment_ids > 0)),
    scored=int(np.sum(batch.loss_mask)),
    pairs=visible_pairs(batch),
  )


def largest_batch(
  config: RunConfig, phase: SftConfig | GrpoConfig, prompt_tokens: int
) -> Work:
  """Every teaching as long as it may be, after prompts of `prompt_tokens`.

  SFT: rows that one example fills.
  """

  def sequence(prompt, length, problem=0):
    length = min(length, phase.row_length)
    mask = np.arange(length) >= prompt
    tokens = np.full(length, problem, np.int32)
    return packing.TokenSequence(tokens, mask, prompt_length=prompt)

  if isinstance(phase, SftConfig):
    prompt = min(prompt_tokens, phase.row_length // 2)
    sequences = [sequence(prompt, phase.row_length)] * phase.batch_rows
    shared = False
  else:
    prompt = min(prompt_tokens, phase.row_length // 2)
    length = prompt + config.episode.max_teaching_tokens
    sequences = [
      sequence(prompt, length, problem)
      for problem in range(phase.problems_per_step)
      for _ in range(phase.group_size)
    ]
    shared = phase.share_prompts
  batch, _ = packing.pack(
    sequences,
    length=phase.row_length,
    rows_multiple=1,
    share_prompts=shared,
  )
  return of_batch(batch)


def layer_weights(a: DecoderConfig) -> int:
  """Numbers in the matrices of all layers."""
  heads = a.n_heads + a.n_kv_heads
  return a.n_layers * a.d_model * (2 * heads * a.head_dim + 3 * a.d_ffw)


def forward_flops(a: DecoderConfig, work: Work, tokens: int) -> int:
  """2 a weight and token, 2 a number of the head and scored token, and 4 H a
  query head and visible pair."""
  dense = 2 * layer_weights(a) * tokens
  head = 2 * a.vocab_size * a.d_model * work.scored
  return dense + head + 4 * a.n_layers * a.n_heads * a.head_dim * work.pairs


def model_flops(a: DecoderConfig, work: Work) -> int:
  """Of a train step that computes real tokens, and nothing twice: 6ND."""
  return 3 * forward_flops(a, work, work.tokens)


def done_flops(a: DecoderConfig, work: Work, remat: str) -> int:
  """Of a train step as it is: with padding and with what is computed again."""
  forward = forward_flops(a, work, work.places)
  head = 2 * a.vocab_size * a.d_model * work.scored
  scores = 2 * a.n_layers * a.n_heads * a.head_dim * work.pairs
  again = forward - head if remat == "full" else 0
  return 3 * forward + head + scores + again
