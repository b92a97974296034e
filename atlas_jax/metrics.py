"""Numbers of a run: accumulated as (sum, count), and written.

Names are `phase/name`, with the unit in the name. Only the lead process
writes; what it writes has been summed over all of them.

metrics.jsonl holds one JSON object a line: phase, step, time (seconds since
the epoch), and the numbers. A run that resumes at a step drops the lines of
that phase beyond it, so no step is counted twice; a line cut short by a kill
is dropped too. A number that is NaN or infinite is written as null.
"""

import json
import logging
import math
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from atlas_jax import directory, files, secret_names
from atlas_jax.config_tree import ConfigError
from atlas_jax.errors import one_line

log = logging.getLogger(__name__)

_STEP = {"phase": str, "step": int}  # what every line of metrics.jsonl has


def means(parts: Iterable[Any]) -> dict[str, float]:
  """Means and maxima over the metrics of train steps (fields sums, maxima).

  A mean is the sum of all sums over the sum of all counts, however they were
  cut; a mean of nothing is left out.
  """
  sums, maxima = {}, {}
  for part in parts:
    for name, (total, count) in part.sums.items():
      s, n = sums.get(name, (0.0, 0.0))
      sums[name] = s + float(total), n + float(count)
    for name, value in part.maxima.items():
      maxima[name] = max(maxima.get(name, -math.inf), float(value))
  return {name: s / n for name, (s, n) in sums.items() if n > 0} | maxima


def lines(path: pathlib.Path, shape: Mapping = {}) -> Iterator[dict]:
  """The objects of a shape (files.misfit) of a JSONL file.

  Others are dropped: the file may have lost its end.
  """
  if path.exists():
    for where, line in files.lines(path):
      if not line.endswith(b"\n"):
        return
      try:
        # A model may say any character.
        value = files.parse(line, where, any_text=True)
        if files.misfit(value, shape) is not None:
          raise files.FileError(where)
        yield value
      except files.FileError:  # cut short by a kill, then continued
        log.warning("%s: dropped a broken line", where)


def of_run(workdir: pathlib.Path) -> list[dict]:
  """The lines of a run's metrics.jsonl; none where there is no such file."""
  return list(lines(workdir / "metrics.jsonl", _STEP))


def drop_beyond(path: pathlib.Path, phase: str, step: int) -> None:
  """Removes the lines of `phase` with a step above `step`."""
  kept = [
    line
    for line in lines(path, _STEP)
    if line["phase"] != phase or line["step"] <= step
  ]
  directory.write_whole(path, "".join(json.dumps(x) + "\n" for x in kept))


def import_wandb():
  """The module wandb; ConfigError where it is not installed."""
  try:
    import wandb
  except ImportError:
    raise ConfigError(
      "Weights & Biases is asked for (config.wandb_project) but not installed:"
      " pip install -e '.[wandb]'"
    ) from None
  return wandb


def summary_writer() -> type:
  """tensorboardX's SummaryWriter, imported without torch.

  tensorboardX wants torch for tensors alone, of which none is written here;
  the import of torch would take seconds of every run.
  """
  absent = sys.modules.setdefault("torch", None) is None
  try:
    from tensorboardX import SummaryWriter
  finally:
    if absent:
      del sys.modules["torch"]
  return SummaryWriter


def _open(value):
  """A config without what its names call secret."""
  if not isinstance(value, Mapping):
    return value
  secret = secret_names.is_secret
  return {k: _open(v) for k, v in value.items() if not secret(k)}


class Writer:
  """Writes the metrics of one phase to metrics.jsonl, TensorBoard and W&B.

  Args:
    workdir: the run directory.
    phase: the first half of every name.
    resume_step: the step that was restored, 0 for a fresh start; whatever a
      killed run wrote beyond it is dropped.
    wandb_project: also log to this project of Weights & Biases, which must
      then be installed; None does not import it.
    config: of the run, for W&B; keys that name secrets are left out.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    phase: str,
    *,
    resume_step: int,
    wandb_project: str | None = None,
    config: Mapping[str, Any] | None = None,
  ):
    self.phase = phase
    path = workdir / "metrics.jsonl"
    drop_beyond(path, phase, resume_step)
    self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 see close
    self._wandb = None
    self._tensorboard = summary_writer()(
      str(workdir / "tensorboard" / phase), purge_step=resume_step + 1
    )
    if wandb_project is not None:
      # One W&B run a directory and phase, however they are called: a resumed
      # run goes on in it, and steps that it does again are not logged twice.
      kept, wandb = directory.run_id(workdir), import_wandb()
      try:
        self._wandb = wandb.init(
          project=wandb_project,
          id=f"{kept}-{phase}",
          group=kept,
          name=f"{workdir.name}-{phase}",
          config=_open(config),
          resume="allow",
        )
      except Exception as error:  # no key, no network, another's project
        raise ConfigError(
          f"Weights & Biases: {one_line(error, None)}"
        ) from error

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the numbers of one step; `values` has names without the phase."""
    named = {f"{self.phase}/{k}": float(v) for k, v in values.items()}
    finite = {k: v if math.isfinite(v) else None for k, v in named.items()}
    line = {"phase": self.phase, "step": step, "time": time.time(), **finite}
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()
    for name, value in named.items():
      self._tensorboard.add_scalar(name, value, step)
    self._tensorboard.flush()
    self._to_wandb(lambda: self._wandb.log(named, step=step))

  def close(self) -> None:
    self._file.close()
    self._tensorboard.close()
    self._to_wandb(lambda: self._wandb.finish())

  def _to_wandb(self, call) -> None:
    """`call()` if there is W&B; once it fails the run goes on without it."""
    try:
      if self._wandb is not None:
        call()
    except Exception as error:
      self._wandb, why = None, one_line(error, None)
      log.warning("nothing more is logged to Weights & Biases: %s", why)
