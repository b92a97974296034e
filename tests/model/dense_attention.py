"""Attention of packed rows, written for the eye: an oracle in float64."""

import numpy as np


def visible(segments, sequences, positions) -> np.ndarray:
  """bool[B, T, S]: which keys a query sees, by the rules of data/packing.py.

  Keys of its own segment, up to its own position, that are shared (sequence 0)
  or of its own sequence. Segment 0 is padding.
  """

  def pairs(x):
    return x[:, :, None], x[:, None, :]

  (q_segment, k_segment), (q_sequence, k_sequence) = map(
    pairs, (segments, sequences)
  )
  q_position, k_position = pairs(positions)
  same = (q_segment == k_segment) & (q_segment != 0)
  same &= (k_sequence == 0) | (q_sequence == k_sequence)
  return same & (k_position <= q_position)


def attention(q, k, v, mask) -> np.ndarray:
  """One query at a time; q [B T K R H], k and v [B S K H]."""
  out = np.zeros(q.shape)
  for b, t, h, r in np.ndindex(*q.shape[:4]):
    keys = np.flatnonzero(mask[b, t])
    if len(keys):
      scores = k[b, keys, h] @ q[b, t, h, r] / np.sqrt(q.shape[-1])
      weights = np.exp(scores - scores.max())
      out[b, t, h, r] = weights / weights.sum() @ v[b, keys, h]
  return out


def gradients(q, k, v, mask, d_out) -> tuple[np.ndarray, ...]:
  """Those of sum(attention * d_out) with respect to q, k and v, by hand."""
  d_q, d_k, d_v = (np.zeros(x.shape) for x in (q, k, v))
  scale = 1 / np.sqrt(q.shape[-1])
  for b, t, h, r in np.ndindex(*q.shape[:4]):
    keys = np.flatnonzero(mask[b, t])
    if len(keys):
      scores = k[b, keys, h] @ q[b, t, h, r] * scale
      weights = np.exp(scores - scores.max())
      weights /= weights.sum()
      d = d_out[b, t, h, r]
      d_v[b, keys, h] += weights[:, None] * d
      d_weights = v[b, keys, h] @ d
      d_scores = weights * (d_weights - weights @ d_weights) * scale
      d_q[b, t, h, r] = d_scores @ k[b, keys, h]
      d_k[b, keys, h] += d_scores[:, None] * q[b, t, h, r]
  return d_q, d_k, d_v
