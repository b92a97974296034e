"""Whether a run fits its accelerators, and what a step of it would take.

The programs of its phases are compiled for the target, none of it is owned:
bytes are the compiler's own, seconds an estimate (a roofline: the slower of
arithmetic and traffic between chips, at the shares of the peak below).
"""

import dataclasses
import pathlib
import types
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from atlas_jax import gpus
from atlas_jax.config import ConfigError, RunConfig, resolve
from atlas_jax.config_tree import tree_of
from atlas_jax.model import names
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.preflight import chips, hlo, programs, work
from atlas_jax.sharding import ShardingError

SPARE = 0.1  # of a chip's memory that must stay free
# Shares of the peak that dense training reaches; nobody has measured ours.
COMPUTE_SHARE, LINK_SHARE = 0.5, 0.7
PROMPT_TOKENS = 1024  # of a prompt, for the estimate
# Of a server: CUDA's context, activations, captured graphs. Assumed.
SERVER_CONTEXT = 2 * chips.GIB


def check(
  config: RunConfig,
  architecture: DecoderConfig,
  target: str,
  compilers: pathlib.Path,
  *,
  rows: int | None = None,
  to_the_end: bool = True,
  servers: Mapping[str, int] = types.MappingProxyType({}),
) -> dict:
  """Compiles the programs of config.phases for `target`.

  Args:
    config: of the run.
    architecture: of its teacher.
    target: see `chips.VALID`.
    compilers: the folder that `launchers/setup.sh --compile` filled.
    rows: of the largest batch; None: the most that there may be.
    to_the_end: also after a program that does not fit.
    servers: bytes of those that share the trainer's GPUs, by who.

  Returns:
    What --json writes. Bytes and operations are of one chip; peak_bytes is the
    most at any time, with all that stays resident; problem says why a program
    could not be made; the estimates are of a step of the last phase.

  Raises:
    ConfigError: an unknown target, or no compiler for it.
  """
  chip, devices = chips.devices(target, compilers)
  beside = sum(servers.values())
  # Packed on this machine, so before a mesh of absent devices is set.
  batches = {
    phase: work.largest_batch(config, getattr(config, phase), PROMPT_TOKENS)
    for phase in ("sft", "grpo")
  }
  found, peak, fits, problem, step = [], 0, True, None, {}
  try:
    for program in programs.compiled(config, architecture, devices, rows):
      phase, kind = program.name.split()
      batch = batches[phase]
      done = work.done_flops(kind, architecture, batch, config.teacher.remat)
      text = hlo.instructions(program.text)
      sent = hlo.collective_bytes(text)
      times = -(-batch.rows // program.rows_at_once)
      seconds = max(
        done / len(devices) / chip.flops / COMPUTE_SHARE,
        times * sum(sent.values()) / chip.link / LINK_SHARE,
      )
      numbers = dataclasses.asdict(program) | {
        "rows": batch.rows,
        "micro_batches": times,
        "done_flops": done // len(devices),
        "sent_bytes_a_micro_batch": dict(sent),
        "largest": hlo.largest(text, 3),
        "estimated_seconds": seconds,
      }
      found.append({k: v for k, v in numbers.items() if k != "text"})
      if kind == "train":
        useful = work.model_flops(architecture, batch)
        step = {"seconds": 0.0, "tokens": batch.tokens, "model_flops": useful}
      step["seconds"] += seconds
      peak = max(peak, program.peak + program.resident)
      fits = peak + beside <= (1 - SPARE) * chip.memory
      if not (fits or to_the_end):
        break
  except (ShardingError, jax.errors.JaxRuntimeError) as error:
    problem = str(error).partition("\n")[0][:300]
  needs = {"trainer": peak, **servers}
  problem = problem or too_small(config, needs, chip.memory)
  if step:
    available = step["seconds"] * chip.flops * len(devices)
    step |= {
      "tokens_per_second": step["tokens"] / step["seconds"],
      "mfu": step["model_flops"] / available,
    }
  return {
    "target": target,
    "fits": fits and problem is None,
    "problem": problem,
    "peak_bytes": peak,
    "host_bytes": max((p["host"] for p in found), default=0),
    "servers_bytes": dict(servers),
    "memory_bytes": chip.memory,
    "estimated_step": step,
    "programs": found,
  }


def beside_trainer(
  config: RunConfig, architectures: Mapping[str, DecoderConfig]
) -> dict[str, int]:
  """who -> bytes on a GPU that the trainer uses, too; see `gpus.shares`.

  architectures: by role, teacher and student.
  """
  trainer, *others = gpus.shares(config)
  found = {}
  for share in others:
    if not set(share.gpus) & set(trainer.gpus):
      continue
    server = config.serving.spawned[share.role]
    width = jnp.dtype(server.dtype).itemsize
    weights = width * names.parameter_count(architectures[share.role])
    weights //= server.tensor_parallel  # a replica has GPUs of its own
    found[share.who] = weights + server.kv_cache_bytes + SERVER_CONTEXT
  return found


def too_small(
  config: RunConfig, needs: Mapping[str, int], card: int
) -> str | None:
  """The first share that is less than what it is for; None: all last.

  Args:
    config: says the shares.
    needs: bytes by who, as in `gpus.shares`.
    card: bytes of the GPU.
  """
  for share in gpus.shares(config):
    need, part = needs.get(share.who, 0), share.fraction
    if part is not None and need > part * card:
      return (
        f"config.{share.key}.gpu_memory_fraction={part:g} of"
        f" {card / chips.GIB:.1f} GiB is less than the"
        f" {need / chips.GIB:.1f} GiB that the {share.who} takes"
      )
  return None


def alternatives(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
  """(what to change, the config with it), the least costly ones first.

  Each holds those before it, so the first that fits is the fastest of them.
  """
  phases = [p for p in ("sft", "grpo") if p in config.phases]
  tree, all_changes = tree_of(config), {}
  for changes in (
    {"grpo.reference_dtype": "bfloat16"},
    {f"{p}.rows_per_device": 1 for p in phases},
    {"teacher.remat": "full"},
    {"teacher.offload": "moments"},
    {"teacher.offload": "masters"},
    {"mesh.context": 2 * config.mesh.context, "mesh.fsdp": -1},
    {f"{p}.optimizer.grad_dtype": "bfloat16" for p in phases},
    {
      f"{p}.optimizer.{key}": value
      for p in phases
      for key, value in (("moments_dtype", "bfloat16"), ("b2", 0.99))
    },
    {"mesh.tensor": 2 * config.mesh.tensor},
    {f"{p}.row_length": getattr(config, p).row_length // 2 for p in phases},
  ):
    tree.update_from_flattened_dict(changes)
    try:
      new = resolve(tree)
    except ConfigError:
      continue
    all_changes |= changes
    if new != config:
      yield ", ".join(f"{k}={v}" for k, v in all_changes.items()), new


def table(checked: dict) -> str:
  """What a person reads of `check`."""
  lines = [
    f"{'program':14}{'peak':>8}{'resident':>10}{'state':>8}{'temp.':>8}"
    f"{'sent GB':>9}{'PFLOP':>8}{'est. s':>8}  of one chip, GiB"
  ]
  for p in checked["programs"]:
    sent = p["micro_batches"] * sum(p["sent_bytes_a_micro_batch"].values())
    columns = ("peak", "resident", "arguments", "temporaries")
    gib = [p[key] / chips.GIB for key in columns]
    lines.append(
      f"{p['name']:14}{gib[0]:8.2f}{gib[1]:10.2f}{gib[2]:8.2f}{gib[3]:8.2f}"
      f"{sent / 1e9:9.1f}{p['done_flops'] / 1e15:8.2f}"
      f"{p['estimated_seconds']:8.1f}"
    )
    lines += [
      f"  {size / chips.GIB:.2f} GiB {array} {source}"
      for size, array, source in p["largest"]
    ]
  if step := checked["estimated_step"]:
    lines.append(
      f"a step is estimated, nothing was run: {step['seconds']:.1f} s,"
      f" {step['tokens_per_second']:.0f} tokens/s, MFU {step['mfu']:.0%}"
    )
  lines += [
    f"{who} beside the trainer: {size / chips.GIB:.2f} GiB"
    for who, size in checked["servers_bytes"].items()
  ]
  if host := checked["host_bytes"]:
    lines.append(f"in the host's memory: {host / chips.GIB:.2f} GiB a chip")
  total = checked["peak_bytes"] + sum(checked["servers_bytes"].values())
  lines.append(
    f"{checked['target']}: {'fits' if checked['fits'] else 'does not fit'}:"
    f" at most {total / chips.GIB:.2f} GiB a chip of"
    f" {checked['memory_bytes'] / chips.GIB:.2f}, {SPARE:.0%} of which must"
    f" stay free{'; ' + checked['problem'] if checked['problem'] else ''}"
  )
  return "\n".join(lines)
