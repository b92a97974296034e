"""Whether a run fits its accelerators, and what a step of it would take.

The programs of its phases are compiled for the target, none of it is owned:
bytes are the compiler's own, seconds an estimate (a roofline: the slower of
arithmetic and traffic between chips, at the shares of the peak below).
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from atlas_jax.config import RunConfig
from atlas_jax.model import hf
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.preflight import chips, hlo, programs, work
from atlas_jax.preflight.chips import GIB, Chip
from atlas_jax.sharding import ShardingError, make_mesh

SPARE = 0.1  # of a chip's memory that must stay free
# Shares of the peak that dense training reaches; nobody has measured ours.
COMPUTE_SHARE, LINK_SHARE = 0.5, 0.7


@dataclasses.dataclass(frozen=True)
class Check:
  """A config on a target. Bytes and operations are of one chip."""

  config: RunConfig
  programs: list[dict]
  peak_bytes: int  # the most at any time, all that stays resident included
  memory_bytes: int
  problem: str | None = None  # why a program could not be made

  @property
  def fits(self) -> bool:
    spare = (1 - SPARE) * self.memory_bytes
    return self.problem is None and self.peak_bytes <= spare

  @property
  def seconds(self) -> float:
    """Estimated, of one step of the last phase with all its programs."""
    return sum(p["estimated_seconds"] for p in self.programs[-2:])

  def as_json(self) -> dict:
    return {
      "fits": self.fits,
      "peak_bytes": self.peak_bytes,
      "memory_bytes": self.memory_bytes,
      "spare": SPARE,
      "problem": self.problem,
      "programs": self.programs,
    }


def check(
  config: RunConfig,
  architecture: DecoderConfig,
  target: str,
  compilers: pathlib.Path,
  *,
  rows: int | None = None,
  prompt_tokens: int = 1024,
) -> Check:
  """Compiles the programs of config.phases for `target`.

  Args:
    config: of the run.
    architecture: of its teacher.
    target: see `chips.VALID`.
    compilers: the folder that `launchers/setup.sh --compile` filled.
    rows: of the largest batch; None: the most that there may be.
    prompt_tokens: of a prompt, for the estimate.

  Raises:
    PreflightError: an unknown target, or no compiler for it.
  """
  chip, devices = chips.devices(target, compilers)
  found, peak = [], 0
  try:
    for program in programs.compiled(config, architecture, devices, rows):
      memory = program.memory
      peak = max(peak, memory.peak + memory.resident)
      numbers = _numbers(
        program, config, architecture, chip, len(devices), prompt_tokens
      )
      found.append(numbers)
    published = _while_publishing(config, architecture, devices)
  except (ShardingError, jax.errors.JaxRuntimeError) as error:
    first = str(error).partition("\n")[0][:300]
    return Check(config, found, peak, chip.memory, first)
  return Check(config, found, max(peak, published), chip.memory)


def _while_publishing(config, architecture, devices) -> int:
  """State, reference and the copy that is sent to the servers."""
  if "grpo" not in config.phases:
    return 0
  with jax.set_mesh(make_mesh(config.mesh, devices)):
    resident = programs.resident_bytes(config, architecture)
    sent = hf.abstract(architecture, jnp.dtype(config.serving.teacher.dtype))
    return resident + programs.tree_bytes(programs.placed(sent))


def _numbers(
  program: programs.Program,
  config: RunConfig,
  architecture: DecoderConfig,
  chip: Chip,
  n_chips: int,
  prompt_tokens: int,
) -> dict:
  name, kind = program.name.split()
  phase = getattr(config, name)
  batch = work.largest_batch(config, phase, prompt_tokens)
  useful = work.model_flops(architecture, batch)
  done = work.done_flops(architecture, batch, config.teacher.remat)
  if kind != "train":
    useful = work.forward_flops(architecture, batch, batch.tokens)
    done = work.forward_flops(architecture, batch, batch.places)
  found = hlo.instructions(program.text)
  sent = hlo.collective_bytes(found, architecture.n_layers)
  shards = config.mesh.data * config.mesh.fsdp
  at_once = phase.rows_per_device * max(shards, 1)
  times = -(-batch.rows // at_once)
  compute = done / n_chips / (COMPUTE_SHARE * chip.flops)
  traffic = times * sum(sent.values()) / (LINK_SHARE * chip.link)
  seconds = max(compute, traffic)
  return {
    "name": program.name,
    **dataclasses.asdict(program.memory),
    "compile_seconds": program.compile_seconds,
    "rows": batch.rows,
    "micro_batches": times,
    "tokens": batch.tokens,
    "model_flops": useful,
    "done_flops": done,
    "sent_bytes_a_micro_batch": dict(sent),
    "largest": hlo.largest(found, 5),
    "estimated_seconds": seconds,
    "estimated_tokens_per_second": batch.tokens / seconds,
    "estimated_mfu": useful / n_chips / seconds / chip.flops,
  }


def alternatives(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
  """(what to change, the config with it), the least costly ones first."""

  def change(tree, path, value):
    head, _, rest = path.partition(".")
    if rest:
      value = change(getattr(tree, head), rest, value)
    return dataclasses.replace(tree, **{head: value})

  phases = [p for p in ("sft", "grpo") if p in config.phases]
  steps = [
    {f"{p}.rows_per_device": 1 for p in phases},
    {"grpo.reference_dtype": "bfloat16"},
    {f"{p}.optimizer.grad_dtype": "bfloat16" for p in phases},
    {"teacher.remat": "full"},
    {"mesh.context": 2 * config.mesh.context, "mesh.fsdp": -1},
    {
      f"{p}.optimizer.{key}": value
      for p in phases
      for key, value in (("moments_dtype", "bfloat16"), ("b2", 0.99))
    },
    {f"{p}.row_length": getattr(config, p).row_length // 2 for p in phases},
  ]
  changes: dict[str, object] = {}
  for step in steps:
    new = config
    changes |= step
    for path, value in changes.items():
      new = change(new, path, value)
    if new != config:
      yield ", ".join(f"{k}={v}" for k, v in changes.items()), new


def table(checked: Check, target: str) -> str:
  """What a person reads."""
  lines = [
    f"{'program':14}{'peak':>8}{'resident':>10}{'state':>8}{'temp.':>8}"
    f"{'sent GB':>9}{'PFLOP':>8}{'est. s':>8}{'tok/s':>9}{'MFU':>6}  GiB a chip"
  ]
  for p in checked.programs:
    sent = p["micro_batches"] * sum(p["sent_bytes_a_micro_batch"].values())
    gib = [p[k] / GIB for k in ("peak", "resident", "arguments", "temporaries")]
    lines.append(
      f"{p['name']:14}{gib[0]:8.2f}{gib[1]:10.2f}{gib[2]:8.2f}{gib[3]:8.2f}"
      f"{sent / 1e9:9.1f}{p['done_flops'] / 1e15:8.2f}"
      f"{p['estimated_seconds']:8.1f}{p['estimated_tokens_per_second']:9.0f}"
      f"{p['estimated_mfu']:6.0%}"
    )
  for p in checked.programs:
    for size, array, source in p["largest"][:3]:
      lines.append(f"  {p['name']}: {size / GIB:.2f} GiB {array} {source}")
  verdict = "fits" if checked.fits else "does not fit"
  lines.append(
    f"{target}: {verdict}: at most {checked.peak_bytes / GIB:.2f} GiB a chip of"
    f" {checked.memory_bytes / GIB:.2f}, of which {SPARE:.0%} must stay free"
    + (f"; {checked.problem}" if checked.problem else "")
  )
  lines.append("seconds, tokens/s and MFU are estimates, nothing was run")
  return "\n".join(lines)
