"""The accelerators that programs are compiled for, and the compilers for them.

Neither needs a chip: libtpu, and JAX's plugin for CUDA, compile for a machine
that is described. They lie in a folder of their own (`launchers/setup.sh
--compile`), because an installed one would be taken for a chip.
"""

import dataclasses
import importlib
import pathlib
import sys

import jax
from jax.experimental import topologies

from atlas_jax import gpus
from atlas_jax.config_tree import ConfigError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator; its makers' figures. A second is one of that chip."""

  memory: int  # bytes that a program may use
  flops: float  # of dense bf16 products, a second
  bandwidth: float  # bytes of its memory, a second; the GPUs' compiler asks
  link: float  # bytes that it sends to its neighbours, a second


# cloud.google.com/tpu/docs/v5p, /v5e, /v6e: links send half of the 1200, 400
# and 800 GB/s of both directions. Memory is what libtpu's compiler bounds.
TPUS = {
  "v5p": Chip(int(95.74 * GIB), 459e12, 2765e9, 600e9),
  "v5e": Chip(int(15.75 * GIB), 197e12, 819e9, 200e9),
  "v6e": Chip(int(31.25 * GIB), 918e12, 1640e9, 400e9),
}
# NVIDIA's data sheets of the SXM boards: half of the 1979 TFLOP/s of sparsity,
# half of NVLink's 900 GB/s of both directions. Memory is the share of 80 (141)
# GB that launchers let JAX take.
GPUS = {
  "h100": Chip(int(gpus.MOST * 84942979072), 989e12, 3352e9, 450e9),
  "h200": Chip(int(gpus.MOST * 150754820096), 989e12, 4800e9, 450e9),
}
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 l2_cache_size: 52428800
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth:.0f}
  clock_rate_ghz: 1.98 device_memory_size: {memory}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability {{ major: 9 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
"""
VALID = "v5p:2x2x2 (also v5e:, v6e:), h100x4, h100x8, h200x8"


def devices(
  target: str, compilers: pathlib.Path
) -> tuple[Chip, list[jax.Device]]:
  """The chip of `target`, and as many devices as it has, to compile for.

  Args:
    target: TPU:TOPOLOGY or GPUxCOUNT, as in VALID.
    compilers: the folder that `launchers/setup.sh --compile` filled.

  Raises:
    ConfigError: an unknown target, or no compiler for it.
  """
  tpu, _, topology = target.partition(":")
  gpu, _, count = target.partition("x")
  if tpu in TPUS and topology:
    chip, folder, described = TPUS[tpu], "tpu", {"topology_name": target}
  elif gpu in GPUS and count.isdigit() and int(count) > 0:
    chip, folder = GPUS[gpu], "cuda"
    text = _GPU.format(memory=chip.memory, bandwidth=chip.bandwidth)
    described = {"target_config": text, "topology": f"1x1x{count}"}
  else:
    raise ConfigError(f"unknown --target {target!r}; valid: {VALID}")
  path = compilers / folder
  if not path.is_dir():
    raise ConfigError(
      f"no compiler in {path}: run `bash launchers/setup.sh --compile`"
    )
  if str(path) not in sys.path:
    # JAX looks for plugins when it first looks for devices.
    sys.path.append(str(path))
    importlib.invalidate_caches()
  try:
    found = topologies.get_topology_desc(platform=folder, **described)
  except Exception as error:  # the compilers have no types of their own
    first = str(error).partition("\n")[0]
    raise ConfigError(
      f"--target={target}: its compiler says: {first}"
    ) from error
  return chip, list(found.devices)
