"""A tiny decoder and rollouts, made from numbers alone."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from atlas_jax import sharding
from atlas_jax.config import GrpoConfig, LoraConfig, ModelConfig
from atlas_jax.data import packing
from atlas_jax.model import decoder, lora

# Every kind of parameter: biases, q/k norms, grouped heads, an own head.
ARCHITECTURE = decoder.DecoderConfig(
  vocab_size=48,
  d_model=32,
  d_ffw=64,
  n_layers=2,
  n_heads=4,
  n_kv_heads=2,
  head_dim=8,
  norm_eps=1e-6,
  rope_theta=1e4,
  rope_scaling=None,
  tied=False,
  attention_bias=True,
  o_bias=True,
  mlp_bias=True,
  qk_norm=True,
  initializer_range=0.1,
)
OPTIONS = ModelConfig(compute_dtype="float32", remat="full", logprob_chunk=24)
GRPO = GrpoConfig(beta=0.04)
TEMPERATURE = 0.8


def model(seed=0, architecture=ARCHITECTURE):
  """Float32 parameters in the layout of the mesh that is set.

  From numpy: JAX compiles for seconds to draw them.
  """
  like = jax.eval_shape(
    lambda: decoder.Decoder(
      architecture, rngs=nnx.Rngs(0), param_dtype=jnp.float32
    )
  )
  rng = np.random.default_rng(seed)

  def draw(path, x):
    mean = float(path[-2].name.endswith("norm"))
    value = rng.normal(mean, architecture.initializer_range, x.shape)
    return jax.device_put(value.astype(np.float32), x.sharding)

  return jax.tree_util.tree_map_with_path(draw, sharding.abstract(like))


def adapters(rank=3, architecture=ARCHITECTURE):
  """Adapters that have been trained: B is not zero; see `model`."""
  options = LoraConfig(rank=rank, alpha=2.0 * rank)
  drawn = jax.jit(lambda: lora.draw(architecture, options, 5))()
  rng = np.random.default_rng(1)

  def grown(x):
    value = np.asarray(x) + 0.3 * rng.normal(size=x.shape)
    return jax.device_put(value.astype(np.float32), x.sharding)

  return jax.tree.map(grown, drawn)


def sequences(count=19, seed=0):
  """Prompts and completions; one completion in seven is silent."""
  rng = np.random.default_rng(seed)
  out = []
  for i in range(count):
    prompt, completion = rng.integers(2, 10), rng.integers(1, 16)
    n = prompt + completion
    mask = np.zeros(n)
    if i % 7 != 6:
      mask[prompt:] = 1
    # Near those of the model, so that no ratio is extreme.
    logprobs = rng.normal(-4.0, 0.3, (2, n))
    out.append(
      packing.TokenSequence(
        tokens=rng.integers(0, ARCHITECTURE.vocab_size, n),
        loss_mask=mask,
        # One sampler without log-probs.
        behavior_logprobs=None if i == 3 else logprobs[0],
        ref_logprobs=logprobs[1],
        advantage=float(rng.normal()),
      )
    )
  return out


def batch(micro_batches=1, *, order=None, rows_multiple=16, length=32, seed=0):
  """Packed numpy arrays [M, B/M, T] of `sequences`, in any order."""
  items = sequences(seed=seed)
  if order is not None:
    items = [items[i] for i in order]
  packed, _ = packing.pack(items, length=length, rows_multiple=rows_multiple)
  return packing.split_micro(packed, micro_batches)


def groups(seed=0):
  """Completions of three prompts, 4, 3 and 1 of them, in a mixed order.

  With rows of 24 tokens the first group is longer than a row.
  """
  rng = np.random.default_rng(seed)
  prompts = [rng.integers(0, ARCHITECTURE.vocab_size, n) for n in (8, 5, 7)]
  out = []
  for g, n in [(0, 9), (1, 4), (0, 6), (2, 12), (0, 8), (1, 1), (1, 7), (0, 3)]:
    completion = rng.integers(0, ARCHITECTURE.vocab_size, n)
    tokens = np.concatenate([prompts[g], completion])
    start = len(prompts[g])
    mask = np.zeros(len(tokens))
    mask[start:] = n != 4  # one completion is silent
    logprobs = rng.normal(-4.0, 0.3, (2, len(tokens)))
    out.append(
      packing.TokenSequence(
        tokens,
        mask,
        *logprobs,
        advantage=float(rng.normal()),
        prompt_length=start,
      )
    )
  return out
