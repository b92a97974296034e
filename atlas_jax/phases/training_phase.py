"""A phase that trains: what it starts from, its checkpoints, its log."""

import contextlib
import dataclasses
import faulthandler
import functools
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from atlas_jax import checkpoint, files, metrics, multihost, progress
from atlas_jax.data.packing import PackedBatch
from atlas_jax.errors import AtlasError
from atlas_jax.model import lora
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.teacher import Teacher
from atlas_jax.training import scoring
from atlas_jax.training import step as step_lib

STUCK_S = 1800  # a step that takes longer shows where it is

log = logging.getLogger(__name__)


class TrainingError(AtlasError):
  """Training makes no progress any more; the text says where to look."""


def start_or_resume(
  checkpoints: checkpoint.Checkpoints,
  teacher: Teacher,
  tx,
  reference_dtype: str | None,
  elsewhere: Mapping[str, str],
) -> tuple[int, dict[str, Any], dict[str, Any]]:
  """What a phase that trains starts from, the first of these that there is.

  1. Its own newest whole checkpoint: everything, and it goes on exactly where
     that was saved.
  2. The weights, and nothing more, that the phase before it that trained has
     left in `teacher`: optimizer, step and data begin anew.
  3. The weights of config.teacher.path, drawn at random where
     config.teacher.random_init says so: `teacher` has them then.

  Returns:
    (steps done, trees as in the checkpoint, what was saved beside them).
    With a reference_dtype a copy of the weights of 2 or 3 is one of the trees;
    in case 1 too it is copied from them, if it is `elsewhere`.
  """
  copy = functools.partial(scoring.copy_model, dtype=reference_dtype)
  if checkpoints.latest() is None:
    trees = step_lib.as_trees(step_lib.init_state(teacher.model, tx))
    if reference_dtype:
      trees["reference"] = copy(trees["model"])
    return 0, trees, {"saved": None, "skipped": 0, "best": None}
  like = step_lib.as_trees(step_lib.abstract_state(teacher.abstract(), tx))
  if "reference" not in elsewhere and reference_dtype:
    like["reference"] = jax.eval_shape(copy, like["model"])
  again = {}
  if elsewhere:
    base, first = lora.split(teacher.model)
    if "reference" in elsewhere:
      again["reference"] = copy(first)
    if like.pop("base", None) is not None:
      again["base"] = base
  return checkpoints.restore(like, again)


def _origin(entry: PhaseEntry) -> str:
  """Where the weights lie that a phase begins with."""
  before = entry.entries("sft", "grpo")[:-1]  # the last is itself
  if before:
    return str(before[-1].root)
  return f"config.teacher.path={entry.config.teacher.path}"


class TrainingPhase:
  """Steps that are trained, watched and saved. Close it.

  Args:
    entry: of config.phases.
    teacher: that it trains.
    steps: that it has.
    tx: the optimizer.
    reference_dtype: of a copy of what is trained, as it is at first, that
      stays beside it; None: there is none.

  Attributes:
    entry: as given.
    state, reference: TrainState and copy (or None), as the steps leave them.
    done: steps that were done when it was saved.
    best: {"step", "accuracy"} of the weights that were best on the validation
      problems; None: none are kept.
    saved: what `save` was given with the checkpoint; None without one.
  """

  def __init__(
    self,
    entry: PhaseEntry,
    teacher: Teacher,
    steps: int,
    tx,
    *,
    reference_dtype: str | None = None,
  ):
    self.entry, self._steps, self._stopped = entry, steps, None
    self._checkpoints = entry.checkpoints()
    # A frozen reference is not written again and again.
    frozen = reference_dtype and entry.options.ref_ema_alpha == 0
    self._elsewhere = {"reference": _origin(entry)} if frozen else {}
    if teacher.options.lora.rank:
      self._elsewhere["base"] = (
        f"config.teacher.path={entry.config.teacher.path}"
      )
    try:
      self.done, trees, beside = start_or_resume(
        self._checkpoints, teacher, tx, reference_dtype, self._elsewhere
      )
    except BaseException:
      self.close()
      raise
    self.state = step_lib.from_trees(trees)
    self.reference = trees.get("reference")
    self.saved, self._skipped = beside["saved"], beside["skipped"]
    self._alpha = teacher.options.lora.alpha
    if beside.get("lora_alpha", self._alpha) != self._alpha:
      self.close()
      raise TrainingError(
        f"config.teacher.lora.alpha={self._alpha:g} is not that of the"
        f" checkpoint, {beside['lora_alpha']:g}: its adapters would be others"
      )
    self.best = None
    best = beside.get("best")
    if best is not None and best["step"] in self._checkpoints:
      self.keep_best(**best)
    self._watch_step()
    if self.done:
      text = "%s continues from step %d of %d"
      log.info(text, entry.name, self.done, steps)

  def _watch_step(self) -> None:
    """All stacks go to stderr if it is not called again within STUCK_S."""
    faulthandler.dump_traceback_later(STUCK_S, file=sys.__stderr__)

  def close(self) -> None:
    """Waits for what is being saved."""
    faulthandler.cancel_dump_traceback_later()
    self._checkpoints.close()

  @contextlib.contextmanager
  def reporting(self):
    """report(step, numbers): the metrics files and the live line."""
    if not multihost.is_lead():
      yield lambda step, numbers: None
      return
    entry = self.entry
    writer = metrics.Writer(
      entry.workdir,
      entry.name,
      resume_step=self.done,
      wandb_project=entry.config.wandb_project,
      config=dataclasses.asdict(entry.config),
    )
    steps = progress.Steps(entry.name, self._steps)

    def report(step, numbers):
      writer.write(step, numbers)
      steps.update(step, numbers)

    with contextlib.closing(writer), progress.shown(steps.line, at_end=True):
      yield report

  def check_update(
    self, step: int, numbers: dict[str, float], packed: PackedBatch
  ) -> None:
    """Counts the updates that were left out.

    Raises:
      TrainingError: all of them, or max_skipped_steps in a row; the last batch
        is in failed/.
    """
    left_out, norm = numbers["update_skipped"], numbers["grad_norm"]
    self._skipped = self._skipped + 1 if left_out == 1 else 0
    if left_out > 0:
      log.warning("step %d: gradient norm %g, update left out", step, norm)
    if self._skipped < min(self.entry.options.max_skipped_steps, self._steps):
      return
    name, kind = self.entry.name, self.entry.kind
    path = self.entry.workdir / "failed" / f"{name}_{step}.npz"

    def keep():
      with files.replacing(path) as file:
        np.savez(file, **packed._asdict())

    multihost.call_on_lead(keep)
    too_large = "; too large: see config.grpo.skip_grad_norm"
    raise TrainingError(
      f"the updates of {self._skipped} steps in a row were left out, the last"
      f" with gradient norm {norm:g}; its batch is {path}. NaN: look at its"
      f" log-probs, config.{kind}.optimizer.learning_rate and the weights that"
      f" it began with{too_large if kind == 'grpo' else ''}"
    )

  def keep_best(self, step: int, accuracy: float) -> None:
    """The checkpoint of the step stays, where none before was as good."""
    if self.best is None or accuracy > self.best["accuracy"]:
      self.best = {"step": step, "accuracy": accuracy}
      self._checkpoints.best = step

  def is_due(self, step: int) -> bool:
    """Whether to `save` after a step; a signal to any process asks for it."""
    self._watch_step()
    self._stopped = multihost.stop_asked()
    every = self.entry.options.checkpoint_every
    return step % every == 0 or step == self._steps or bool(self._stopped)

  def save(self, step: int, beside: Callable[[], Any]) -> None:
    """Saves what there is after `step`, if it is not saved already.

    Args:
      step: that is done.
      beside: gives the state of what the phase trains on, saved as JSON.

    Raises:
      Stopped: a signal asked for it.
    """
    if self._checkpoints.latest() != step:
      trees = step_lib.as_trees(self.state)
      if self.reference is not None:
        trees["reference"] = self.reference
      extra = {"saved": beside(), "skipped": self._skipped, "best": self.best}
      if self.state.base is not None:
        extra["lora_alpha"] = self._alpha
      self._checkpoints.save(step, trees, extra, self._elsewhere)
    if self._stopped:
      raise self._stopped
