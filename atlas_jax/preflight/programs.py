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
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from atlas_jax import checkpoint, sharding
from atlas_jax.config import GrpoConfig, RunConfig, SftConfig
from atlas_jax.data.packing import PackedBatch
from atlas_jax.model import lora
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.training import scoring
from atlas_jax.training import step as step_lib
from atlas_jax.training.optimizer import make_optimizer


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device while a program runs."""

  arguments: int
  temporaries: int
  peak: int  # arguments included; those that are donated counted once
  resident: int  # of the run, beside the arguments


@dataclasses.dataclass(frozen=True)
class Program:
  name: str
  memory: Memory
  text: str  # the optimised HLO
  compile_seconds: float


def tree_bytes(tree) -> int:
  """Bytes of the arrays of an abstract tree on one device."""

  def one(x):
    part = x.sharding.shard_shape(x.shape)
    return x.dtype.itemsize * math.prod(part)

  return sum(one(x) for x in jax.tree.leaves(tree))


def _batch(rows: int, most: int, length: int, mesh) -> PackedBatch:
  layout = NamedSharding(mesh, P(None, *sharding.spec("batch")))
  shape = (-(-most // rows), rows, length)
  return PackedBatch(
    *(
      jax.ShapeDtypeStruct(shape, dtype, sharding=layout)
      for dtype in [jnp.int32] * 4 + [jnp.float32] * 6
    )
  )


def most_rows(phase: SftConfig | GrpoConfig) -> int:
  """Rows that a step may have: every rollout may fill one."""
  if isinstance(phase, SftConfig):
    return phase.batch_rows
  return phase.problems_per_step * phase.group_size


def compiled(
  config: RunConfig,
  architecture: DecoderConfig,
  devices: list[jax.Device],
  rows: int | None = None,
) -> Iterator[Program]:
  """The train, score and prepare programs of config.phases.

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
    model = lora.abstract(architecture, config.teacher)
    for name in dict.fromkeys(p for p in config.phases if p in ("sft", "grpo")):
      phase = getattr(config, name)
      most = rows or most_rows(phase)
      at_once = sharding.rows_at_once(most, phase.rows_per_device, mesh)
      batch = _batch(at_once, most, phase.row_length, mesh)
      yield from _phase(name, phase, config, architecture, model, batch)


def placed(tree):
  """An abstract tree with the layouts of the mesh that is set."""
  return checkpoint.abstract(tree)


def _state(phase: SftConfig | GrpoConfig, model):
  """(abstract TrainState, reference or None, optimizer, schedule)."""
  tx, schedule = make_optimizer(phase.optimizer, 10**6)
  state = placed(step_lib.abstract_state(model, tx))
  reference = None
  if isinstance(phase, GrpoConfig) and phase.beta > 0:
    copy = functools.partial(scoring.copy_model, dtype=phase.reference_dtype)
    reference = placed(jax.eval_shape(copy, state.trained))
  return state, reference, tx, schedule


def resident_bytes(config: RunConfig, architecture: DecoderConfig) -> int:
  """State and reference of the GRPO phase on one device of the mesh."""
  model = lora.abstract(architecture, config.teacher)
  state, reference, _, _ = _state(config.grpo, model)
  return tree_bytes(state) + tree_bytes(reference)


def _phase(name, phase, config, architecture, model, batch):
  state, reference, tx, schedule = _state(phase, model)
  options, temperature = config.teacher, config.episode.teacher_temperature
  if name == "sft":
    objective = step_lib.sft_objective(architecture, options)
  else:
    objective = step_lib.grpo_objective(
      architecture,
      options,
      phase,
      temperature=temperature,
      max_completion_tokens=config.episode.max_teaching_tokens,
    )
  beside = tree_bytes(reference)
  train = step_lib.make_train_step(
    objective,
    tx,
    schedule,
    skip_grad_norm=getattr(phase, "skip_grad_norm", None),
    grad_dtype=phase.optimizer.grad_dtype,
  )
  yield _compile(f"{name} train", train, (state, batch), beside)
  if name == "sft":
    return
  if reference is not None:
    score = scoring.make_score_step(
      architecture, options, temperature=temperature
    )
    policy = lora.join(state.base, reference)
    yield _compile("grpo score", score, (policy, batch), tree_bytes(state))
  if phase.epochs > 1 or phase.entropy_share is not None:
    prepare = scoring.make_prepare_step(
      architecture, options, phase, temperature=temperature
    )
    rest = tree_bytes(state) - tree_bytes(state.model) + beside
    yield _compile("grpo prepare", prepare, (state.model, batch), rest)


def _compile(name: str, function, arguments, resident: int) -> Program:
  start = time.perf_counter()
  program = function.lower(*arguments).compile()
  seconds = time.perf_counter() - start
  found = program.memory_analysis()
  peak = getattr(found, "peak_memory_in_bytes", 0) or (
    found.argument_size_in_bytes
    + found.temp_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
  )
  memory = Memory(
    arguments=found.argument_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
    peak=peak,
    resident=resident,
  )
  return Program(name, memory, program.as_text(), seconds)
