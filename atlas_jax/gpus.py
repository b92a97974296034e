"""Which GPUs of a host trainer and servers use, and how much of their memory.

Where a GPU is named by more than one of them, each says its share of the
memory: vLLM takes 92% of a card otherwise, the trainer 95%, whoever is there.
"""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from atlas_jax.config_tree import ConfigError

MOST = 0.95  # of a card; the rest is the driver's


class Share(NamedTuple):
  """What the trainer, or the server of a role, has of this host's GPUs."""

  role: str  # trainer, teacher or student
  gpus: tuple[int, ...]
  fraction: float | None

  @property
  def who(self) -> str:
    return self.role if self.role == "trainer" else f"{self.role} server"

  @property
  def key(self) -> str:
    """Where the config says so."""
    return "mesh" if self.role == "trainer" else f"serving.{self.role}"


def numbers(text: str) -> tuple[int, ...]:
  """The numbers of a list such as "0", "4-7" or "0,2-3".

  Raises:
    ValueError: it is none.
  """
  found: list[int] = []
  for part in filter(None, text.split(",")):
    first, dash, last = part.partition("-")
    counted = range(int(first), int(last if dash else first) + 1)
    if not counted:
      raise ValueError(f"{part} counts down")
    found += counted
  return tuple(found)


def covers(text: str) -> bool:
  """Whether a text names different GPUs, or none."""
  return len(set(numbers(text))) == len(numbers(text))


def shares(config) -> list[Share]:
  """Of a RunConfig, for all that the run starts on this host."""
  parts = {"trainer": config.mesh} | config.serving.spawned
  return [
    Share(role, numbers(part.gpus), part.gpu_memory_fraction)
    for role, part in parts.items()
  ]


def conflicts(config) -> Iterator[str]:
  """A line for each GPU whose memory is not shared out."""
  found = shares(config)
  trainer, *servers = found
  for share in found:
    alone = share.fraction is not None or (share in servers and trainer.gpus)
    if alone and not share.gpus:
      yield (
        f"{share.key}.gpus must be given where config.mesh.gpus or"
        f" config.{share.key}.gpu_memory_fraction is: {share.who} would take"
        " any GPU"
      )
  for gpu in sorted({n for share in found for n in share.gpus}):
    here = [share for share in found if gpu in share.gpus]
    if len(here) < 2:
      continue
    keys = ", ".join(f"{share.key}.gpu_memory_fraction" for share in here)
    if None in (share.fraction for share in here):
      yield f"GPU {gpu} is shared: all of {keys} must be given"
    elif (total := sum(share.fraction for share in here)) > MOST + 1e-9:
      yield f"{keys} add up to {total:g} of GPU {gpu}; at most {MOST} is valid"
  for share in servers:
    server = config.serving.spawned[share.role]
    count = server.replicas * server.tensor_parallel
    if share.gpus and len(share.gpus) != count:
      yield (
        f"{share.key}.gpus={server.gpus} must name {count} GPUs: replicas="
        f"{server.replicas} x tensor_parallel={server.tensor_parallel}"
      )


def split(config) -> str | None:
  """The shares in one line; None where the config says nothing of GPUs."""
  found = [s for s in shares(config) if s.gpus or s.fraction is not None]
  parts = [
    share.who
    + (f" on {', '.join(map(str, share.gpus))}" if share.gpus else "")
    + ("" if share.fraction is None else f" with {share.fraction:g} of it")
    for share in found
  ]
  return "GPUs: " + "; ".join(parts) if parts else None


def of_host(dev=pathlib.Path("/dev")) -> set[int]:
  """The numbers of the GPUs that `dev` names."""
  names = (path.name.removeprefix("nvidia") for path in dev.glob("nvidia*"))
  return {int(name) for name in names if name.isdigit()}


def of_trainer(
  config, visible: str | None = None, dev: pathlib.Path = pathlib.Path("/dev")
) -> dict[str, str]:
  """Environment variables that hold the trainer to its GPUs and its share.

  Args:
    config: a RunConfig. Where it does not name the trainer's GPUs, they are
      those of this host that no server has.
    visible: CUDA_VISIBLE_DEVICES as it is; None: all of the host's.
    dev: names them.

  Raises:
    ConfigError: a GPU that is named is not visible, or none is left.
  """
  trainer, *servers = shares(config)
  mine, theirs = trainer.gpus, {n for share in servers for n in share.gpus}
  there = of_host(dev)
  if visible is not None and (mine or theirs):
    try:
      there = set(numbers(visible))
    except ValueError:
      there = set()
    if unseen := {*mine, *theirs} - there:
      raise ConfigError(
        f"CUDA_VISIBLE_DEVICES={visible!r} hides GPU {min(unseen)}, which"
        " config.mesh.gpus or config.serving.*.gpus names; both are numbers of"
        " the host"
      )
  if not mine and theirs and there:
    mine = tuple(sorted(there - theirs))
    if not mine:
      raise ConfigError(
        "the servers have all GPUs of this host; name the trainer's with"
        " config.mesh.gpus"
      )
  found = {}
  if mine:
    found["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, mine))
  if trainer.fraction is not None:
    found["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{trainer.fraction:g}"
  return found
