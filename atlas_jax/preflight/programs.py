"""The programs of a run's phases, compiled for devices that nobody has.

Shapes, dtypes and layouts are those of the run; no array is made.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from atlas_jax import sharding
from atlas_jax.config import RunConfig
from atlas_jax.data.packing import PackedBatch
from atlas_jax.model import hf, lora
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.phases.trainer import make_update, most_rows
from atlas_jax.training import scoring
from atlas_jax.training import step as step_lib


@dataclasses.dataclass(frozen=True)
class Program:
  """A program of a phase, or what it does without one. Bytes of one device."""

  name: str  # PHASE KIND
  rows_at_once: int  # of a micro-batch, over all devices
  resident: int  # what the run keeps beside the arguments
  arguments: int
  temporaries: int = 0
  peak: int = 0  # arguments included; those that are donated counted once
  host: int = 0  # of the arguments, in the memory of the host
  compile_seconds: float = 0.0
  text: str = ""  # the optimised HLO


def _on_host(x) -> bool:
  return getattr(x.sharding, "memory_kind", None) == "pinned_host"


def tree_bytes(tree) -> int:
  """Bytes of the arrays of an abstract tree in the memory of one device."""
  return sum(
    x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
    for x in jax.tree.leaves(tree)
    if not _on_host(x)
  )


def placed(tree):
  """An abstract tree with the layouts of the mesh that is set.

  What is on the host stays on an abstract mesh: one of devices that are only
  described has no memory of a host.
  """
  on_mesh = sharding.abstract(tree)
  return jax.tree.map(lambda x, y: x if _on_host(x) else y, tree, on_mesh)


def compiled(
  config: RunConfig,
  architecture: DecoderConfig,
  devices: list[jax.Device],
  rows: int | None = None,
) -> Iterator[Program]:
  """What the SFT and GRPO phases run: train, score, prepare; and publishing.

  Args:
    config: of the run.
    architecture: of its teacher.
    devices: as many as config.mesh takes.
    rows: of the largest batch; None: the most that a step may have.

  Raises:
    ShardingError: a mesh that does not fit devices, sizes or row lengths.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  with jax.set_mesh(mesh):
    for name in dict.fromkeys(p for p in config.phases if p in ("sft", "grpo")):
      yield from _phase(name, config, architecture, mesh, rows)


def _phase(
  name: str, config: RunConfig, architecture: DecoderConfig, mesh: Mesh, rows
) -> Iterator[Program]:
  phase, options = getattr(config, name), config.teacher
  most = rows or most_rows(phase)
  at_once = sharding.rows_at_once(most, phase.rows_per_device, mesh)
  cut = NamedSharding(mesh, P(None, *sharding.spec("batch")))
  shape = (-(-most // at_once), at_once, phase.row_length)
  dtypes = [jnp.int32] * 4 + [jnp.float32] * 6
  batch = PackedBatch(
    *(jax.ShapeDtypeStruct(shape, dtype, sharding=cut) for dtype in dtypes)
  )
  tx, train = make_update(config, phase, architecture, 10**6)
  model = lora.abstract(architecture, options)
  state, reference = placed(step_lib.abstract_state(model, tx)), None
  if name == "grpo" and phase.beta > 0:
    copy = functools.partial(scoring.copy_model, dtype=phase.reference_dtype)
    reference = placed(jax.eval_shape(copy, state.trained))
  kept = tree_bytes((state, reference))

  def program(kind, function, argument):
    start = time.perf_counter()
    done = function.lower(argument, batch).compile()
    seconds = time.perf_counter() - start
    found = done.memory_analysis()
    given, made = found.argument_size_in_bytes, found.temp_size_in_bytes
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    host = found.host_argument_size_in_bytes
    peak = given + made + new
    if known := getattr(found, "peak_memory_in_bytes", 0):
      peak = known - host - found.host_temp_size_in_bytes
    return Program(
      f"{name} {kind}",
      at_once,
      resident=kept - tree_bytes(argument),
      arguments=given,
      temporaries=made,
      peak=peak,
      host=host,
      compile_seconds=seconds,
      text=done.as_text(),
    )

  yield program("train", train, state)
  if name == "sft":
    return
  temperature = config.episode.teacher_temperature
  model = architecture, options
  if reference is not None:
    score = scoring.make_score_step(*model, temperature=temperature)
    yield program("score", score, lora.join(state.base, reference))
  if phase.epochs > 1 or phase.entropy_share is not None:
    prepare = scoring.make_prepare_step(*model, phase, temperature=temperature)
    yield program("prepare", prepare, state.model)
  # The copy in the servers' dtype, beside everything.
  sent = hf.abstract(architecture, jnp.dtype(config.serving.teacher.dtype))
  sent = tree_bytes(placed(sent))
  yield Program("grpo publish", at_once, kept, sent, peak=sent)
