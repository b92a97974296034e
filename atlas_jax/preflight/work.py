"""The work of a step: floating-point operations, counted by hand.

XLA counts the body of a loop once, so its figures are of no use here.
"""

import dataclasses

import numpy as np

from atlas_jax.config import GrpoConfig, RunConfig, SftConfig
from atlas_jax.data import packing
from atlas_jax.model import attention
from atlas_jax.model.architecture import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Work:
  """What a batch asks for."""

  rows: int
  row_length: int
  tokens: int  # real ones
  scored: int  # those whose log-probs are wanted
  pairs: int  # of a query and a key that it sees


def of_batch(batch: packing.PackedBatch) -> Work:
  rows, length = batch.tokens.shape
  end = attention.visible_until(batch.segment_ids, batch.sequence_ids)
  seen_by = np.asarray(end) - np.arange(length)
  return Work(
    rows=rows,
    row_length=length,
    tokens=int(np.sum(batch.segment_ids > 0)),
    scored=int(np.sum(batch.loss_mask)),
    pairs=int(np.sum(np.maximum(seen_by, 0))),
  )


def largest_batch(
  config: RunConfig, phase: SftConfig | GrpoConfig, prompt_tokens: int
) -> Work:
  """Every teaching as long as it may be, after prompts of `prompt_tokens`.

  SFT: rows that one example fills.
  """
  row = phase.row_length
  prompt = min(prompt_tokens, row // 2)
  if isinstance(phase, SftConfig):
    length, problems, group, shared = row, phase.batch_rows, 1, False
  else:
    length = min(prompt + config.episode.max_teaching_tokens, row)
    problems, group = phase.problems_per_step, phase.group_size
    shared = phase.share_prompts
  sequences = [
    packing.TokenSequence(
      np.full(length, problem, np.int32),
      np.arange(length) >= prompt,
      prompt_length=prompt,
    )
    for problem in range(problems)
    for _ in range(group)
  ]
  batch, _ = packing.pack(
    sequences, length=row, rows_multiple=1, share_prompts=shared
  )
  return of_batch(batch)


def layer_weights(a: DecoderConfig) -> int:
  """Numbers in the matrices of all layers."""
  heads = a.n_heads + a.n_kv_heads
  return a.n_layers * a.d_model * (2 * heads * a.head_dim + 3 * a.d_ffw)


def _parts(a: DecoderConfig, work: Work, tokens: int) -> tuple[int, int, int]:
  """Of a forward pass: weights and `tokens`, head and scored, visible pairs."""
  return (
    2 * layer_weights(a) * tokens,
    2 * a.vocab_size * a.d_model * work.scored,
    4 * a.n_layers * a.n_heads * a.head_dim * work.pairs,
  )


def model_flops(a: DecoderConfig, work: Work) -> int:
  """Of a train step that computes real tokens, and nothing twice: 6ND."""
  return 3 * sum(_parts(a, work, work.tokens))


def done_flops(kind: str, a: DecoderConfig, work: Work, remat: str) -> int:
  """Of a program as it is: with padding and with what is computed again."""
  dense, head, pairs = _parts(a, work, work.rows * work.row_length)
  if kind == "publish":
    return 0
  if kind != "train":
    return dense + head + pairs
  # The backward pass computes logits and scores again, and with full
  # recomputation the layers.
  again = dense + pairs if remat == "full" else 0
  return 3 * (dense + head + pairs) + head + pairs // 2 + again
