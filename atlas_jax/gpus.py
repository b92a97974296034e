"""Which GPUs of a host trainer and servers use, and how much of their memory.

Where a GPU is named by more than one of them, each says its share of the
memory: vLLM takes 92% of a card otherwise, the trainer 95%, whoever is there.
"""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

MOST = 0.95  # of a card; the rest is the driver's


class Share(NamedTuple):
  """What one program has. key: where the config says so."""

  who: str
  key: str
  gpus: tuple[int, ...]
  fraction: float | None


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
  serving = config.serving
  parts = {"trainer": ("mesh", config.mesh)}
  for role in ("teacher", "student"):
    server = getattr(serving, role)
    if server.url is None:
      parts[f"{role} server"] = f"serving.{role}", server
  return [
    Share(who, key, numbers(part.gpus), part.gpu_memory_fraction)
    for who, (key, part) in parts.items()
  ]


def conflicts(config) -> Iterator[str]:
  """A line for each GPU whose memory is not shared out."""
  found = shares(config)
  for gpu in sorted({n for share in found for n in share.gpus}):
    here = [share for share in found if gpu in share.gpus]
    if len(here) < 2:
      continue
    keys = ", ".join(f"{share.key}.gpu_memory_fraction" for share in here)
    if None in (share.fraction for share in here):
      yield f"GPU {gpu} is shared: all of {keys} must be given"
    elif (total := sum(share.fraction for share in here)) > MOST + 1e-9:
      yield f"{keys} add up to {total:g} of GPU {gpu}; at most {MOST} is valid"


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


def of_trainer(config, dev=pathlib.Path("/dev")) -> dict[str, str]:
  """Environment variables that hold the trainer to its GPUs and its share.

  Where its GPUs are not named they are those of `dev` that no server has.
  """
  trainer, *servers = shares(config)
  mine, theirs = trainer.gpus, {n for share in servers for n in share.gpus}
  if not mine and theirs:
    mine = tuple(sorted(of_host(dev) - theirs))
  found = {}
  if mine:
    found["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, mine))
  if trainer.fraction is not None:
    found["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{trainer.fraction:g}"
  return found
