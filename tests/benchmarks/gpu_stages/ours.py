"""A train step of ours: its speed, its memory, and attention's share of it."""

import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax import metrics, sharding
from atlas_jax.config import GrpoConfig, ModelConfig, RunConfig, SftConfig
from atlas_jax.data import packing
from atlas_jax.model import attention, hf
from atlas_jax.phases.trainer import make_update
from atlas_jax.preflight import programs, work
from atlas_jax.training import step as step_lib
from tests.benchmarks.gpu_stages import common

_UPDATES = 10**6  # as preflight has it: its program is then the very same


def run(kinds: list[str], shape: str, remat: str = "full") -> None:
  """Steps of several kinds; a card's peak is the highest of all before."""
  for kind in kinds:
    _measure(kind, shape, remat)


def _measure(kind: str, shape: str, remat: str) -> None:
  sizes, architecture = common.sizes(shape), common.architecture(shape)
  config = RunConfig(
    phases=(kind,),
    teacher=ModelConfig(
      compute_dtype=common.compute_dtype(shape),
      remat=remat,
      logprob_chunk=1024,
    ),
    sft=SftConfig(row_length=sizes.row_length),
    grpo=GrpoConfig(row_length=sizes.row_length),
  )
  batch = common.packed(kind, shape)
  asked = work.of_batch(batch)  # before there is a mesh
  device = jax.devices()[0]
  # What launchers.compile says of the program, compiled for the card itself.
  with contextlib.closing(
    programs.compiled(config, architecture, [device], rows=asked.rows)
  ) as found:
    program = next(found)
  mesh = sharding.make_mesh(config.mesh, [device])
  with jax.set_mesh(mesh):
    model = hf.init(architecture, 0, config.teacher.param_dtype)
    tx, train = make_update(
      config, getattr(config, kind), architecture, _UPDATES
    )
    state = step_lib.init_state(model, tx)
    del model
    placed = sharding.put_batch(
      packing.split_micro(batch, asked.rows), mesh, batch_axis=1
    )

    def one():
      nonlocal state
      state, numbers = train(state, placed)
      return metrics.means([numbers])  # waits for them

    start = time.perf_counter()
    first = one()
    warm_up_s = time.perf_counter() - start
    step_s = common.timed(one, sizes.steps)
  stats = device.memory_stats() or {}
  row = {
    "section": "step",
    **{"kind": kind, "shape": shape, "who": "ours", "how": f"remat {remat}"},
    "step_s": step_s,
    "tokens": asked.tokens,
    "model_flops": work.model_flops(architecture, asked),
    "peak_bytes": stats.get("peak_bytes_in_use"),
    "forecast_bytes": program.peak + program.resident,
    "loss": first["loss"],
    "grad_norm": first["grad_norm"],
    "warm_up_s": warm_up_s,
  }
  del state
  seconds = attention_seconds(architecture, batch, remat, shape)
  common.emit(**row, attention_s=seconds)


def attention_seconds(architecture, batch, remat: str, shape: str) -> float:
  """What attention takes of a step, measured by itself row after row."""
  a, dtype = architecture, common.compute_dtype(shape)
  heads = (a.n_kv_heads, a.n_heads // a.n_kv_heads, a.head_dim)
  length = batch.tokens.shape[1]
  rng = np.random.default_rng(0)
  q, k, v, weights = (
    jnp.asarray(rng.normal(size=(1, length, *s)), dtype)
    for s in (heads, heads[::2], heads[::2], heads)
  )
  at = jnp.arange(length)

  @jax.jit
  def forward(q, k, v, end):
    return attention.packed_attention(q, k, v, at, end)

  @jax.jit
  def both(q, k, v, end, weights):
    out, back = jax.vjp(lambda *x: forward(*x, end), q, k, v)
    return out, back(weights)

  ends = [
    attention.visible_until(segment[None], sequence[None])
    for segment, sequence in zip(
      batch.segment_ids, batch.sequence_ids, strict=True
    )
  ]
  wait, seconds = jax.block_until_ready, 0.0
  calls = [lambda end: both(q, k, v, end, weights)]
  if remat != "none":  # the backward pass computes it once more
    calls.append(lambda end: forward(q, k, v, end))
  for call in calls:
    wait(call(ends[0]))
    for end in ends:
      seconds += common.timed(lambda end=end, c=call: wait(c(end)), 2)
  return a.n_layers * seconds
