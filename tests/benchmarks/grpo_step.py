"""Seconds, tokens and memory of one GRPO step on seeded rollouts.

  python -m tests.benchmarks.grpo_step --shape=smollm2-135m --layout=shared

64 completions of 16 to 128 tokens in groups of 8, prompts of 160 tokens; the
step is the trainer's own: forward, backward, clip, AdamW, in float32. Prints
one line of JSON; one configuration a process, since peak memory is that of a
process. `--layout` packed has every completion bring its prompt, padded gives
it a row of 288 tokens too. `--tokens=2` and `--vocab=2` double the rollouts
and the vocabulary: peak memory must not grow by tokens x vocabulary.

  ... --tunix=.../bench_tunix.py --tunix_python=VENV/bin/python --rounds=3

runs this and Tunix in turn, each in a process of its own, and prints medians.
Tunix pads: 8 micro-batches of 8 rows of 288 tokens make the same step. Its
script updates after every micro-batch; `ratio_less_adamw` takes the seven
updates too many off, at the cost that ours has.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from atlas_jax.config import GrpoConfig, ModelConfig, OptimizerConfig
from atlas_jax.data import packing
from atlas_jax.model import decoder, logprobs
from atlas_jax.training import optimizer, step

GROUPS, GROUP_SIZE = 8, 8
PROMPT, SHORTEST, LONGEST = 160, 16, 128
PADDED = PROMPT + LONGEST

_SMOLLM2 = decoder.DecoderConfig(
  vocab_size=49152,
  d_model=576,
  d_ffw=1536,
  n_layers=30,
  n_heads=9,
  n_kv_heads=3,
  head_dim=64,
  norm_eps=1e-5,
  rope_theta=1e5,
  rope_scaling=None,
  tied=True,
  attention_bias=False,
  o_bias=False,
  mlp_bias=False,
  qk_norm=False,
  initializer_range=0.02,
)
SHAPES = {
  "smollm2-135m": _SMOLLM2,
  "1m": dataclasses.replace(
    _SMOLLM2,
    vocab_size=2048,
    d_model=128,
    d_ffw=384,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    head_dim=32,
  ),
}
# (row length, micro-batches) of each layout
LAYOUTS = {"shared": (768, 3), "packed": (1024, 4), "padded": (PADDED, 8)}


def rollouts(groups: int, vocab_size: int) -> list[packing.TokenSequence]:
  """Groups of completions with random tokens, log-probs and advantages."""
  rng = np.random.default_rng(0)
  out = []
  for _ in range(groups):
    prompt = rng.integers(3, vocab_size, PROMPT)
    for n in rng.integers(SHORTEST, LONGEST, GROUP_SIZE, endpoint=True):
      tokens = np.concatenate([prompt, rng.integers(3, vocab_size, n)])
      mask = np.zeros(len(tokens))
      mask[PROMPT:] = 1
      logprobs = rng.normal(-np.log(vocab_size), 0.3, len(tokens))
      out.append(
        packing.TokenSequence(
          tokens,
          mask,
          logprobs,
          advantage=float(rng.normal()),
          prompt_length=PROMPT,
        )
      )
  return out


def laid_out(sequences, layout: str, length: int, micro_batches: int):
  """([M, B/M, T] arrays, PackingStats)."""
  if layout == "padded":
    rows = [
      packing.pack([s], length=length, rows_multiple=1)[0] for s in sequences
    ]
    batch = jax.tree.map(lambda *arrays: np.concatenate(arrays), *rows)
    used = int((batch.segment_ids > 0).sum())
    stats = packing.PackingStats(used / (len(rows) * length), 0, len(rows), 0)
  else:
    batch, stats = packing.pack(
      sequences,
      length=length,
      rows_multiple=micro_batches,
      share_prompts=layout == "shared",
    )
  return packing.split_micro(batch, micro_batches), stats


def timed(function, steps: int) -> tuple[float, float]:
  """Median seconds and CPU seconds of a call, after one that is not timed."""
  function()
  seconds, cpu = [], []
  for _ in range(steps):
    start, cpu_start = time.perf_counter(), time.process_time()
    function()
    seconds.append(time.perf_counter() - start)
    cpu.append(time.process_time() - cpu_start)
  return statistics.median(seconds), statistics.median(cpu)


def peak_mb() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def parts(architecture, options, objective, model, batch, steps: int) -> dict:
  """Seconds of a step's parts: what each costs by itself, all micro-batches."""
  micro_batches = batch.tokens.shape[0]
  micro = jax.tree.map(lambda x: x[0], batch)
  # Batches are arguments: as constants they would be folded for minutes.
  forward = jax.jit(
    lambda model, micro: decoder.forward(model, architecture, micro, options)
  )
  hidden = forward(model, micro)

  def head_loss(model, hidden, micro):
    scores = logprobs.token_logprobs(
      *(model, architecture, micro, options, hidden),
      temperature=1.0,
      with_entropy=True,
    )
    return jnp.sum(scores[0])

  head = jax.jit(jax.grad(head_loss, argnums=(0, 1)))
  gradient = jax.jit(lambda m, batch: step.gradients(objective, m, batch)[0])
  wait = jax.block_until_ready
  seconds = {}
  for name, call in {
    "forward": lambda: forward(model, micro),
    "head": lambda: head(model, hidden, micro),
  }.items():
    one = timed(lambda call=call: wait(call()), steps)[0]
    seconds[name] = one * micro_batches
  whole = timed(lambda: wait(gradient(model, batch)), steps)[0]
  seconds["backward"] = whole - sum(seconds.values())
  return seconds


def measure(args: argparse.Namespace) -> dict:
  architecture = SHAPES[args.shape]
  architecture = dataclasses.replace(
    architecture, vocab_size=architecture.vocab_size * args.vocab
  )
  options = ModelConfig(
    compute_dtype=args.dtype, remat=args.remat, logprob_chunk=args.chunk
  )
  objective = step.grpo_objective(
    architecture,
    options,
    GrpoConfig(),
    temperature=1.0,
    max_completion_tokens=128,
  )
  tx, schedule = optimizer.make_optimizer(OptimizerConfig(), 1000)
  length, micro_batches = LAYOUTS[args.layout]
  length = args.row_length or length
  micro_batches = args.micro_batches or micro_batches * args.tokens
  sequences = rollouts(GROUPS * args.tokens, architecture.vocab_size)
  batch, stats = laid_out(sequences, args.layout, length, micro_batches)
  model = decoder.Decoder(
    architecture, rngs=nnx.Rngs(0), param_dtype=jnp.float32
  )
  state = step.init_state(model, tx)
  del model
  train = step.make_train_step(objective, tx, schedule, skip_grad_norm=None)
  start = time.perf_counter()
  program = train.lower(state, batch).compile()
  compile_s = time.perf_counter() - start

  def one():
    nonlocal state
    state, metrics = program(state, batch)
    jax.block_until_ready((state, metrics))

  step_s, cpu_s = timed(one, args.steps)
  useful = int(sum(s.loss_mask.sum() for s in sequences))
  out = {
    "shape": args.shape,
    "layout": args.layout,
    "dtype": args.dtype,
    "remat": args.remat,
    "row_length": length,
    "rows": stats.rows,
    "micro_batches": micro_batches,
    "completion_tokens": useful,
    "shared_tokens": stats.shared_tokens,
    "fill": round(stats.fill, 4),
    "step_s": round(step_s, 3),
    "cpu_s": round(cpu_s, 3),
    "completion_tokens_per_s": round(useful / step_s, 1),
    "compile_s": round(compile_s, 1),
    "peak_rss_mb": peak_mb(),
    "load": os.getloadavg()[0],
  }
  if args.parts:
    seconds = parts(
      architecture, options, objective, state.model, batch, args.steps
    )
    seconds["adamw"] = step_s - sum(seconds.values())
    out["parts_s"] = {k: round(v, 3) for k, v in seconds.items()}
    out["parts_share"] = {k: round(v / step_s, 3) for k, v in seconds.items()}
  return out


def adamw_seconds(shape: str, steps: int) -> float:
  """Seconds of one update of all weights, its gradient given."""
  architecture = SHAPES[shape]
  model = decoder.Decoder(
    architecture, rngs=nnx.Rngs(0), param_dtype=jnp.float32
  )
  tx, _ = optimizer.make_optimizer(OptimizerConfig(), 1000)

  def update(model, opt_state, grads):
    updates, opt_state = tx.update(grads, opt_state, model)
    return optax.apply_updates(model, updates), opt_state

  update = jax.jit(update, donate_argnums=(0, 1))
  grads = jax.tree.map(jnp.ones_like, model)
  carry = (model, tx.init(model))

  def one():
    nonlocal carry
    carry = jax.block_until_ready(update(*carry, grads))

  return timed(one, steps)[0]


def compare(args: argparse.Namespace) -> dict:
  """Medians of `rounds` pairs, ours and Tunix in turn."""
  own = [
    *(sys.executable, "-m", "tests.benchmarks.grpo_step"),
    *(f"--shape={args.shape}", f"--layout={args.layout}"),
    *(f"--dtype={args.dtype}", f"--steps={args.steps}"),
    *(f"--remat={args.remat}", f"--chunk={args.chunk}"),
  ]
  theirs = [
    *(args.tunix_python, args.tunix, "--mode=grpo"),
    *(f"--size={args.shape}", f"--dtype={args.dtype}", "--batch=8"),
    *(f"--prompt-len={PROMPT}", f"--completion-len={LONGEST}"),
    f"--steps={args.steps}",
  ]
  root = pathlib.Path(__file__).resolve().parents[2]

  def run(command):
    done = subprocess.run(
      command, cwd=root, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])

  pairs = []
  for n in range(args.rounds):
    a, b = run(own), run(theirs)
    print(json.dumps({"round": n, "ours": a, "tunix": b}), flush=True)
    pairs.append((a, b))
  updates = GROUPS * GROUP_SIZE // 8
  adamw = adamw_seconds(args.shape, args.steps)

  def medians(ours, tunix):
    ratios = [tunix(b) / ours(a) for a, b in pairs]
    return round(statistics.median(ratios), 2)

  tokens = pairs[0][0]["completion_tokens"]
  tunix_s = statistics.median(updates * b["step_s"] for _, b in pairs)
  return {
    "ours_step_s": statistics.median(a["step_s"] for a, _ in pairs),
    "tunix_step_s": round(tunix_s, 2),
    "tunix_completion_tokens_per_s": round(tokens / tunix_s, 1),
    "adamw_s": round(adamw, 3),
    "ratio": medians(lambda a: a["step_s"], lambda b: updates * b["step_s"]),
    "ratio_less_adamw": medians(
      lambda a: a["step_s"],
      lambda b: updates * b["step_s"] - (updates - 1) * adamw,
    ),
    "ratio_cpu": medians(lambda a: a["cpu_s"], lambda b: updates * b["cpu_s"]),
  }


def main() -> None:
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
  p.add_argument("--layout", choices=LAYOUTS, default="shared")
  p.add_argument("--row_length", type=int, help="tokens a row")
  p.add_argument("--micro_batches", type=int)
  p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
  p.add_argument("--remat", choices=decoder.REMAT, default="dots")
  p.add_argument("--chunk", type=int, default=512, help="tokens of logits")
  p.add_argument("--steps", type=int, default=3)
  p.add_argument("--tokens", type=int, default=1, help="times the rollouts")
  p.add_argument("--vocab", type=int, default=1, help="times the vocabulary")
  p.add_argument("--parts", action="store_true", help="time the parts too")
  p.add_argument("--tunix", help="path of bench_tunix.py")
  p.add_argument("--tunix_python", help="a Python that has Tunix")
  p.add_argument("--rounds", type=int, default=3)
  args = p.parse_args()
  if (args.tunix is None) != (args.tunix_python is None):
    p.error("--tunix and --tunix_python go together")
  print(json.dumps(compare(args) if args.tunix else measure(args)))


if __name__ == "__main__":
  main()
