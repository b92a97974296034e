"""The phases of a run, by the names that `config.phases` uses.

`run_phases` validates everything, takes the run directory and calls the
phases in order. Each phase continues from its own checkpoints, so running
the same command again resumes.
"""

import contextlib
import logging
import math
import pathlib
import socket
import zlib

import jax
import numpy as np

from atlas_jax import config as config_lib
from atlas_jax import directory, multihost, sharding, stopping
from atlas_jax.model import hf
from atlas_jax.phases import evaluate, export, grpo, settling, sft
from atlas_jax.phases.run import Run

log = logging.getLogger(__name__)

PHASES = {
  "sft": sft.run,
  "grpo": grpo.run,
  "evaluate": evaluate.run,
  "export": export.run,
}


class PhaseError(ValueError):
  """config.phases names a phase that does not exist, or none."""


def check_phases(phases: tuple[str, ...]) -> None:
  """Raises PhaseError unless every name is a phase."""
  unknown = [name for name in phases if name not in PHASES]
  if unknown or not phases:
    what = f"unknown phase {unknown[0]!r}" if unknown else "no phase"
    raise PhaseError(
      f"config.phases: {what}; valid phases: {', '.join(PHASES)}"
    )


def accelerators(dev=pathlib.Path("/dev")) -> tuple[int, int]:
  """(those that this run's processes on this host use, those it has).

  A collective. Where `dev` names none, the host has 0.
  """
  host, backend = socket.gethostname(), jax.default_backend()
  host = zlib.crc32(host.encode())
  mine = 0 if backend == "cpu" else jax.local_device_count()
  pairs = multihost.gather(np.array([mine, host], np.uint32))
  used = int(sum(n for n, of in pairs if of == host))
  names = "accel[0-9]*" if backend == "tpu" else "nvidia[0-9]*"
  return used, len([*dev.glob(names)])


def _say_devices(run: Run) -> None:
  log.info(
    "%d of %d devices (%s) in this process; mesh %s; %d parameters",
    jax.local_device_count(),
    jax.device_count(),
    jax.devices()[0].device_kind,
    ", ".join(f"{axis}={n}" for axis, n in run.mesh.shape.items()),
    sum(math.prod(t.shape) for t in hf.tensors(run.decoder_config)),
  )
  used, has = accelerators()
  if used < has:
    log.warning(
      "the run uses %d of the %d accelerators of this host; under SLURM with"
      " one task a node JAX_LOCAL_DEVICE_IDS=0,...,%d gives it all",
      used,
      has,
      has - 1,
    )


def run_phases(
  config: config_lib.RunConfig,
  workdir: pathlib.Path,
  server_key: str | None = None,
) -> None:
  """Runs config.phases in order, in `workdir`.

  server_key is the bearer token of servers that are given as URLs.

  Every phase is called INDEX_NAME wherever it writes, since a phase may stand
  in the list twice (evaluate before and after grpo).
  """
  check_phases(config.phases)
  with contextlib.ExitStack() as stack:
    stack.enter_context(stopping.listening())
    # Several processes leave together: what the lead alone does can be ended.
    stack.enter_context(stopping.held(jax.process_count() > 1))
    multihost.call_on_lead(
      lambda: stack.enter_context(directory.lock(workdir)) and None
    )
    stack.enter_context(jax.set_mesh(sharding.make_mesh(config.mesh)))
    config = settling.settled(config, workdir)
    run = stack.enter_context(Run(config, workdir, server_key))
    if "evaluate" in config.phases:
      evaluate.chosen_problems(run)
    if "sft" in config.phases:
      sft.total_steps(run)

    def claim():
      directory.claim_checkpoints(config, workdir)
      directory.claim(workdir, config_lib.to_dict(run.config))

    # Only now: a config that is refused leaves the directory as it was.
    multihost.call_on_lead(claim)
    _say_devices(run)
    for index, phase in enumerate(config.phases):
      log.info("phase %s (%d of %d)", phase, index + 1, len(config.phases))
      PHASES[phase](run, f"{index}_{phase}")
