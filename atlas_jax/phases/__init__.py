"""The phases of a run, by the names that `config.phases` uses.

`run_phases` checks everything, takes the run directory and calls the phases in
order. Each phase continues from its own checkpoints, so running the same
command again resumes.
"""

import contextlib
import dataclasses
import logging
import pathlib
import socket

import jax

from atlas_jax import directory, gpus, multihost, sharding, stopping
from atlas_jax.config import RunConfig
from atlas_jax.data import splits
from atlas_jax.model import names
from atlas_jax.phases import evaluate, export, grpo, opening, sft
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.servers import Servers
from atlas_jax.phases.teacher import Teacher

log = logging.getLogger(__name__)


def accelerators(dev=pathlib.Path("/dev")) -> tuple[int, int]:
  """(those that this run's processes on this host use, those it has).

  A collective. Where `dev` names none, the host has 0.
  """
  host, backend = socket.gethostname(), jax.default_backend()
  mine = 0 if backend == "cpu" else jax.local_device_count()
  pairs = multihost.call_on_all(lambda: (host, mine))
  used = sum(n for of, n in pairs if of == host)
  if backend != "tpu":
    return used, len(gpus.of_host(dev))
  # TPUs: the second from v5e on.
  return used, len([*dev.glob("accel[0-9]*"), *dev.glob("vfio/[0-9]*")])


def _log_devices(teacher: Teacher, config: RunConfig) -> None:
  log.info(
    "%d of %d devices (%s) in this process; mesh %s; %d parameters",
    jax.local_device_count(),
    jax.device_count(),
    jax.devices()[0].device_kind,
    ", ".join(f"{axis}={n}" for axis, n in teacher.mesh.shape.items()),
    names.parameter_count(teacher.decoder_config),
  )
  used, has = accelerators()
  # A config that splits the GPUs means to leave some to the servers.
  if used < has and gpus.split(config) is None:
    log.warning(
      "the run uses %d of the %d accelerators of this host; under SLURM with"
      " one task a node JAX_LOCAL_DEVICE_IDS=0,...,%d gives it all",
      used,
      has,
      has - 1,
    )


def run_phases(
  config: RunConfig,
  workdir: pathlib.Path,
  server_key: str | None = None,
  command: str | None = None,
) -> None:
  """Runs config.phases in order, in `workdir`.

  server_key is the bearer token of servers that are given as URLs; command is
  what started the run, for its report.
  """
  with contextlib.ExitStack() as stack:
    stack.enter_context(stopping.listening())
    # Several processes leave together: what the lead alone does can be ended.
    stack.enter_context(stopping.held(jax.process_count() > 1))
    multihost.check_devices()
    multihost.on_lead(lambda: stack.enter_context(directory.lock(workdir)))
    opening.check_same(config)
    stack.enter_context(jax.set_mesh(sharding.make_mesh(config.mesh)))
    run = opening.open_run(config, workdir)
    config, teacher = run.config, run.teacher
    opening.check_same(config)  # with the fingerprint of what each has read
    servers = Servers(config.serving, workdir, teacher, run.student, server_key)
    stack.callback(servers.close)

    def draw(split, wanted):
      source, seed = config.data.source, config.seed
      return splits.sample(run.splits, split, wanted, source=source, seed=seed)

    if "evaluate" in config.phases:
      questions = draw(config.evaluate.split, config.evaluate.problems)
    held_out = []
    if "grpo" in config.phases and config.grpo.evaluate_every is not None:
      held_out = draw("validation", config.grpo.evaluate_problems)
    if "sft" in config.phases:
      steps = sft.total_steps(config, run.sft_sequences)

    def claim():
      directory.claim_checkpoints(config, workdir)
      directory.claim(workdir, dataclasses.asdict(config))
      directory.write_started(workdir, command)
      stack.enter_context(directory.logging_to(workdir))

    # Only now: a config that is refused leaves the directory as it was.
    multihost.call_on_lead(claim)
    multihost.check_shared(directory.checkpoints_root(config, workdir))
    _log_devices(teacher, config)
    sampling = {"teacher": teacher, "servers": servers, "prompts": run.prompts}
    for index, kind in enumerate(config.phases):
      log.info("phase %s (%d of %d)", kind, index + 1, len(config.phases))
      entry = PhaseEntry(config, workdir, index)
      match kind:
        case "sft":
          sft.train(entry, teacher, run.sft_sequences, steps)
        case "grpo":
          train = run.splits.train
          grpo.train(entry, problems=train, held_out=held_out, **sampling)
        case "evaluate":
          guests = run.guests
          evaluate.evaluate(
            entry, problems=questions, guests=guests, **sampling
          )
        case "export":
          export.export(entry, teacher=teacher)
      # One that came where none looked ends all here, as it does in a step.
      if (stopped := multihost.stop_asked()) is not None:
        raise stopped
    multihost.call_on_lead(lambda: print(directory.results(workdir)))
