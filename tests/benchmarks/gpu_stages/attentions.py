"""Attention forward and backward by itself, of ours and of what else there is.

Rows are `shared`, groups of completions behind prompts that they share, or
`causal`, one sequence a row. 32768 tokens at a time, heads as the shape has
them. Kernels that keep no dense scores are cuDNN's (causal rows only; it knows
no such mask), tokamax's (it makes a dense mask), PyTorch's flash attention
(causal) and FlexAttention.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.data import packing
from atlas_jax.model import attention
from atlas_jax.preflight import work
from tests.benchmarks.gpu_stages import common

_BRANCHES = 8


def _rows(rows: int, length: int, mask: str) -> packing.PackedBatch:
  """Rows that are about full: of two groups, or of one sequence."""
  if mask == "causal":
    prompt, branch, groups = 1, length - 1, rows
  else:
    prompt = length // 16
    branch = (length // 2 - prompt + 1) // _BRANCHES - 1
    groups = 2 * rows
  members = 1 if mask == "causal" else _BRANCHES
  tokens = prompt + branch
  sequences = [
    packing.TokenSequence(
      np.full(tokens, 3 + g),
      np.arange(tokens) >= prompt,
      prompt_length=prompt,
    )
    for g in range(groups)
    for _ in range(members)
  ]
  return packing.pack(
    sequences, length=length, rows_multiple=1, share_prompts=True
  )[0]


def _work(shape: str):
  """(mask, end [B, T], the row to emit) of every measurement."""
  a = common.architecture(shape)
  lengths = common.sizes(shape).attention
  for length in lengths:
    for mask in ("shared", "causal"):
      batch = _rows(max(lengths) // length, length, mask)
      end = np.asarray(
        attention.visible_until(batch.segment_ids, batch.sequence_ids)
      )
      pairs = work.of_batch(batch).pairs
      row = {
        "section": "attention",
        **{"tokens": length, "rows": len(end), "mask": mask},
        "flops": 4 * a.n_heads * a.head_dim * pairs,
      }
      yield mask, end, row


def _inputs(shape: str, rows: int, length: int) -> list[np.ndarray]:
  """q, k, v and the gradient of the result: [B, T, heads, H]."""
  a = common.architecture(shape)
  rng = np.random.default_rng(0)
  return [
    rng.standard_normal((rows, length, n, a.head_dim), np.float32)
    for n in (a.n_heads, a.n_kv_heads, a.n_kv_heads, a.n_heads)
  ]


def run(library: str, shape: str) -> None:
  {"jax": _run_jax, "torch": _run_torch}[library](shape)


def _seen(at, end):
  """The dense mask [B, 1, T, S]."""
  seen = (at[None, None, :] <= at[None, :, None]) & (
    at[None, :, None] < end[:, None, :]
  )
  return seen[:, None]


def _contenders(mask: str) -> dict:
  """Name -> function of q, k, v [B, T, heads, H] and end [B, T]."""

  def ours(q, k, v, end):
    b, t, n, h = q.shape
    grouped = q.reshape(b, t, k.shape[2], -1, h)
    at = jnp.arange(t)
    out = attention.packed_attention(grouped, k, v, at, end)
    return out.reshape(b, t, n, h)

  def dense(q, k, v, end):
    seen = _seen(jnp.arange(q.shape[1]), end)
    return jax.nn.dot_product_attention(
      *(q, k, v), mask=seen, implementation="xla"
    )

  def cudnn(q, k, v, end):
    return jax.nn.dot_product_attention(
      *(q, k, v), is_causal=True, implementation="cudnn"
    )

  def tokamax(q, k, v, end):
    import tokamax

    seen = _seen(jnp.arange(q.shape[1]), end)
    return tokamax.dot_product_attention(q, k, v, mask=seen)

  found = {"ours": ours, "dense": dense, "tokamax": tokamax}
  return found | ({"cudnn": cudnn} if mask == "causal" else {})


def _time_jax(function, inputs, end, d_out):
  """(the result, seconds forward, seconds forward and backward)."""
  wait, forward = jax.block_until_ready, jax.jit(function)

  # Inputs are arguments: as constants they would be folded.
  @jax.jit
  def both(q, k, v, end, d_out):
    out, back = jax.vjp(lambda *x: function(*x, end), q, k, v)
    return out, back(d_out)

  out = wait(forward(*inputs, end))
  wait(both(*inputs, end, d_out))
  one = common.timed(lambda: wait(forward(*inputs, end)), 3)
  return out, one, common.timed(lambda: wait(both(*inputs, end, d_out)), 3)


def _run_jax(shape: str) -> None:
  on_card = jax.default_backend() == "gpu"
  for mask, end, row in _work(shape):
    *inputs, d_out = (
      jnp.asarray(x, common.compute_dtype(shape))
      for x in _inputs(shape, *end.shape)
    )
    expected, end = None, jnp.asarray(end)
    for who, function in _contenders(mask).items():
      if who == "cudnn" and not on_card:
        common.emit(**row, who=who, note="needs a GPU")
        continue
      try:
        out, one, two = _time_jax(function, inputs, end, d_out)
      except Exception as error:
        common.emit(**row, who=who, note=common.why(error))
        continue
      # A query that sees nothing is padding: each has its own idea of it.
      out = jnp.where((end > 0)[..., None, None], out, 0).astype(jnp.float32)
      expected = out if expected is None else expected
      error = float(jnp.max(jnp.abs(out - expected)))
      common.emit(**row, who=who, forward_s=one, both_s=two, error=error)


def _time_torch(call, inputs, d_out, wait) -> tuple[float, float]:
  """(seconds forward, seconds forward and backward)."""
  import torch

  def forward():
    with torch.no_grad():
      call(*inputs)
    wait()

  def both():
    torch.autograd.grad(call(*inputs), inputs, d_out)
    wait()

  forward()
  both()
  return common.timed(forward, 3), common.timed(both, 3)


def _run_torch(shape: str) -> None:
  import torch
  import torch.nn.functional as F
  from torch.nn.attention import flex_attention

  jax.config.update("jax_platforms", "cpu")  # the card is PyTorch's
  cuda = torch.cuda.is_available()
  device = "cuda" if cuda else "cpu"
  wait = torch.cuda.synchronize if cuda else lambda: None
  attend = torch.compile(flex_attention.flex_attention, dynamic=False)

  def flex(end):
    def sees(b, h, q, k):
      return (k <= q) & (q < end[b, k])

    rows, length = end.shape
    blocks = flex_attention.create_block_mask(
      sees, rows, None, length, length, device=device
    )
    return functools.partial(attend, block_mask=blocks, enable_gqa=True)

  def sdpa(end):
    return functools.partial(
      F.scaled_dot_product_attention, is_causal=True, enable_gqa=True
    )

  for mask, end, row in _work(shape):
    *inputs, d_out = (
      torch.tensor(x, dtype=getattr(torch, common.compute_dtype(shape)))
      .to(device)
      .transpose(1, 2)
      for x in _inputs(shape, *end.shape)
    )
    inputs = [x.requires_grad_() for x in inputs]
    # Padding sees itself: a softmax over nothing is left to no kernel.
    end = np.where(end == 0, np.arange(1, end.shape[1] + 1), end)
    end = torch.tensor(end, device=device)
    found = {"flex": flex} | ({"sdpa": sdpa} if mask == "causal" else {})
    for who, make in found.items():
      if who == "flex" and not cuda:
        common.emit(**row, who=who, note="has no backward pass on a CPU")
        continue
      try:
        one, two = _time_torch(make(end), inputs, d_out, wait)
      except Exception as error:
        common.emit(**row, who=who, note=common.why(error))
        continue
      common.emit(**row, who=who, forward_s=one, both_s=two)
