"""The same steps in PyTorch: padded as TRL pads, and packed.

Both are transformers' Qwen3 with float32 weights, bf16 autocast (float32 at
tiny sizes), gradient checkpointing and fused AdamW, and compute the loss and
the entropies that our step does.

  padded  TRL 1.16's layout: the rollouts are shuffled, prompts padded on the
          left and completions on the right to the longest of the batch,
          micro-batches of 8 rows, logits of completions only, SDPA. For SFT a
          micro-batch is padded to its own longest example, logits of all.
  packed  our rows with their shared prompts: FlexAttention, whose mask
          function says k <= q < end[k], torch.compile of each layer, logits of
          trained tokens only, in chunks. On a CPU FlexAttention has no
          backward pass: SDPA is given its mask function there, and
          FlexAttention, eager, computes the loss once more.
"""

import contextlib
import dataclasses
import time

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoModelForCausalLM, Qwen3Config

from atlas_jax.config import EpisodeConfig, GrpoConfig, OptimizerConfig
from atlas_jax.model import attention, hf
from atlas_jax.preflight import work
from tests.benchmarks.gpu_stages import common
from tests.model.exported import exported

_CHUNK = 1024  # tokens whose logits exist at one time, as in our step
_CUDA = torch.cuda.is_available()
_DEVICE = "cuda" if _CUDA else "cpu"


def _register(attend) -> str:
  """The name of an attention of transformers' that calls `attend`."""

  def packed(module, q, k, v, mask, scaling, **_):
    # Autocast leaves queries and keys in float32 after their norms.
    q, k = q.to(v.dtype), k.to(v.dtype)
    if not _CUDA and torch.is_grad_enabled():
      dense = flex_attention.create_mask(
        mask.mask_mod, None, None, *mask.seq_lengths, device=_DEVICE
      )
      out = F.scaled_dot_product_attention(
        *(q, k, v, dense), scale=scaling, enable_gqa=True
      )
    else:
      out = attend(q, k, v, block_mask=mask, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None

  AttentionInterface.register("packed_flex", packed)
  return "packed_flex"


def _model(shape: str, implementation: str):
  """Qwen3 of a shape; a tiny one has the weights of our own model."""
  with torch.device(_DEVICE):
    model = AutoModelForCausalLM.from_config(
      Qwen3Config(**common.SHAPES[shape], use_cache=False),
      attn_implementation=implementation,
      dtype=torch.float32,
    )
  if shape == "tiny":
    architecture = common.architecture(shape)
    ours = hf.init(architecture, 0, "float32")
    tensors = exported(ours, architecture, "float32")
    state = {name: torch.tensor(x) for name, x in tensors.items()}
    left_out = model.load_state_dict(state, strict=False)
    assert left_out.missing_keys in ([], ["lm_head.weight"]), left_out
    assert not left_out.unexpected_keys, left_out
  model.train()
  model.gradient_checkpointing_enable({"use_reentrant": False})
  return model


def _autocast(shape: str):
  if common.compute_dtype(shape) == "float32":
    return contextlib.nullcontext()
  return torch.autocast(_DEVICE, torch.bfloat16)


@dataclasses.dataclass(frozen=True)
class Trained:
  """Of trained tokens, all of one shape."""

  mask: torch.Tensor
  advantages: torch.Tensor
  behavior: torch.Tensor


def _loss_sum(kind: str, logprobs: torch.Tensor, trained: Trained):
  """DAPO's sum, its ratio to the server truncated; of SFT the sum of -logp."""
  if kind == "sft":
    return -(logprobs * trained.mask).sum()
  c, a = GrpoConfig(), trained.advantages
  old = logprobs.detach()
  ratio = torch.exp(logprobs - old)
  clipped = ratio.clamp(1 - c.eps_low, 1 + c.eps_high)
  rho = torch.exp(old - trained.behavior).clamp(c.mismatch_min, c.mismatch_max)
  loss = -torch.minimum(ratio * a, clipped * a) * rho
  return (loss * trained.mask).sum()


def _temperature(kind: str) -> float:
  return EpisodeConfig().teacher_temperature if kind == "grpo" else 1.0


def _entropy(logits):
  logs = F.log_softmax(logits, -1)
  return -(logs.exp() * logs).sum(-1)


def _padded_batches(kind: str, shape: str):
  """(tokens, attention mask, length of completions, Trained) of TRL's kind."""
  s = common.sizes(shape)
  all_of = common.sequences(kind, shape)
  order = np.random.default_rng(1).permutation(len(all_of))
  all_of = [all_of[i] for i in order]
  for at in range(0, len(all_of), s.padded_rows):
    part = all_of[at : at + s.padded_rows]
    whole = all_of if kind == "grpo" else part
    prompts = [x.prompt_length if kind == "grpo" else 0 for x in whole]
    longest = max(prompts)
    length = max(len(x.tokens) - p for x, p in zip(whole, prompts, strict=True))
    shape_of = (len(part), longest + length)
    tokens = np.zeros(shape_of, np.int64)
    real, mask, behavior = (np.zeros(shape_of, np.float32) for _ in range(3))
    for i, x in enumerate(part):
      begin = longest - (x.prompt_length if kind == "grpo" else 0)
      where = (i, slice(begin, begin + len(x.tokens)))
      tokens[where], real[where], mask[where] = x.tokens, 1, x.loss_mask
      behavior[where] = x.behavior_logprobs
    advantages = np.array([[x.advantage] for x in part], np.float32)
    tokens, real, mask, behavior, advantages = (
      torch.tensor(x, device=_DEVICE)
      for x in (tokens, real, mask, behavior, advantages)
    )
    n = length if kind == "grpo" else length - 1  # predicted positions
    yield (
      *(tokens, real.long(), n),
      Trained(mask[:, -n:], advantages, behavior[:, -n:]),
    )


def _padded_logprobs(model, kind: str, batch):
  tokens, real, n, _ = batch
  out = model(tokens, attention_mask=real, logits_to_keep=n + 1)
  logits = out.logits[:, :-1].float()
  if kind == "grpo":
    logits = logits / _temperature(kind)
    with torch.no_grad():
      torch.cat([_entropy(row) for row in logits])
  picked = logits.gather(-1, tokens[:, -n:, None])[..., 0]
  return picked - torch.stack([row.logsumexp(-1) for row in logits])


def _packed_batches(kind: str, shape: str):
  """(tokens, positions, end, trained columns, Trained) of each row of ours."""
  batch = common.packed(kind, shape)
  end = np.asarray(
    attention.visible_until(batch.segment_ids, batch.sequence_ids)
  )
  # Padding sees itself: a softmax over nothing is left to no kernel.
  end = np.where(end == 0, np.arange(1, end.shape[1] + 1), end)
  for b in range(len(end)):
    at = np.flatnonzero(batch.loss_mask[b])
    tokens, positions, ends, at, *of_trained = (
      torch.tensor(x, device=_DEVICE)
      for x in (
        *(batch.tokens[b].astype(np.int64), batch.positions[b], end[b], at),
        *(batch.loss_mask[b, at], batch.advantages[b, at]),
        batch.behavior_logprobs[b, at],
      )
    )
    yield tokens, positions, ends, at, Trained(*of_trained)


def _chunk_logprobs(hidden, head, tokens, temperature, with_entropy):
  logits = F.linear(hidden, head).float() / temperature
  if with_entropy:
    with torch.no_grad():
      _entropy(logits)
  picked = logits.gather(-1, tokens[:, None])[:, 0]
  return picked - logits.logsumexp(-1)


def _packed_logprobs(model, kind: str, batch):
  tokens, positions, ends, at, _ = batch

  def sees(b, h, q, k):
    return (k <= q) & (q < ends[k])

  length = len(tokens)
  mask = flex_attention.create_block_mask(
    sees, None, None, length, length, device=_DEVICE
  )
  hidden = model.model(
    tokens[None],
    position_ids=positions[None].long(),
    attention_mask={"full_attention": mask},
  ).last_hidden_state[0, at - 1]
  parts = [
    checkpoint(
      _chunk_logprobs,
      hidden[i : i + _CHUNK],
      model.lm_head.weight,
      tokens[at[i : i + _CHUNK]],
      _temperature(kind),
      kind == "grpo",
      use_reentrant=False,
    )
    for i in range(0, len(at), _CHUNK)
  ]
  return torch.cat(parts)


_PEERS = {
  "padded": (_padded_batches, _padded_logprobs),
  "packed": (_packed_batches, _packed_logprobs),
}


def run(who: str, kinds: list[str], shape: str) -> None:
  jax.config.update("jax_platforms", "cpu")  # the card is PyTorch's
  for kind in kinds:
    if who == "padded":
      _measure(who, kind, _model(shape, "sdpa"), shape, "SDPA")
    elif not _CUDA:
      model = _model(shape, _register(flex_attention.flex_attention))
      _measure(who, kind, model, shape, "FlexAttention's mask function, SDPA")
    else:
      _packed_on_card(kind, shape)


def _packed_on_card(kind: str, shape: str) -> None:
  """Compiles whole layers; where that fails, FlexAttention alone."""
  how = "FlexAttention, layers compiled"
  try:
    _measure("packed", kind, _compiled_layers(shape), shape, how)
    return
  except Exception as error:  # with it the memory of the first try goes
    failed = common.why(error)
  torch._dynamo.reset()
  attend = torch.compile(flex_attention.flex_attention, dynamic=False)
  how = f"FlexAttention compiled, layers eager ({failed})"
  _measure("packed", kind, _model(shape, _register(attend)), shape, how)


def _compiled_layers(shape: str):
  model = _model(shape, _register(flex_attention.flex_attention))
  for layer in model.model.layers:
    layer.compile(dynamic=False)
  return model


def _measure(who: str, kind: str, model, shape: str, how: str) -> None:
  if _CUDA:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
  make_batches, logprobs = _PEERS[who]
  batches = list(make_batches(kind, shape))
  count = sum(float(batch[-1].mask.sum()) for batch in batches)
  c = OptimizerConfig()
  optimizer = torch.optim.AdamW(
    model.parameters(),
    lr=c.learning_rate,
    betas=(c.b1, c.b2),
    eps=c.eps,
    weight_decay=c.weight_decay,
    fused=_CUDA,
  )

  def one():
    total = 0.0
    for batch in batches:
      with _autocast(shape):
        loss = _loss_sum(kind, logprobs(model, kind, batch), batch[-1])
      (loss / count).backward()
      total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), c.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(total) / count, float(norm)  # waits for them

  eager_loss = None
  if who == "packed" and not _CUDA:
    with torch.no_grad():
      sums = [
        _loss_sum(kind, logprobs(model, kind, batch), batch[-1])
        for batch in batches
      ]
    eager_loss = float(sum(sums)) / count
  start = time.perf_counter()
  loss, norm = one()
  warm_up_s = time.perf_counter() - start
  step_s = common.timed(one, common.sizes(shape).steps)
  asked = work.of_batch(common.packed(kind, shape))
  common.emit(
    **{"section": "step", "kind": kind, "shape": shape, "who": who},
    how=how,
    step_s=step_s,
    tokens=asked.tokens,
    model_flops=work.model_flops(common.architecture(shape), asked),
    peak_bytes=torch.cuda.max_memory_allocated() if _CUDA else None,
    **({} if eager_loss is None else {"flex_loss": eager_loss}),
    loss=loss,
    grad_norm=norm,
    warm_up_s=warm_up_s,
  )
