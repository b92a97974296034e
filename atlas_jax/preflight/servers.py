"""What the vLLM servers that a run starts need on the trainer's GPUs."""

from collections.abc import Mapping

import jax.numpy as jnp

from atlas_jax import gpus
from atlas_jax.config import RunConfig
from atlas_jax.model import names
from atlas_jax.model.architecture import DecoderConfig
from atlas_jax.preflight.chips import GIB

# CUDA's context, activations and captured graphs; assumed, not measured.
BESIDE = 2 * GIB


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
    role = share.who.split()[0]
    server = getattr(config.serving, role)
    width = jnp.dtype(server.dtype).itemsize
    weights = width * names.parameter_count(architectures[role])
    weights //= server.tensor_parallel  # a replica has GPUs of its own
    found[share.who] = weights + server.kv_cache_bytes + BESIDE
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
    need = needs.get(share.who)
    if share.fraction is None or need is None:
      continue
    if need > share.fraction * card:
      return (
        f"config.{share.key}.gpu_memory_fraction={share.fraction:g} of"
        f" {card / GIB:.1f} GiB is less than the {need / GIB:.1f} GiB that the"
        f" {share.who} takes"
      )
  return None
