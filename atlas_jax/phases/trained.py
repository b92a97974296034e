"""The state of a phase that trains: resumed, watched, saved."""

import functools
import logging
from collections.abc import Callable

import jax
import numpy as np

from atlas_jax import checkpoint, files, multihost
from atlas_jax.config import GrpoConfig, SftConfig
from atlas_jax.data import packing
from atlas_jax.errors import AtlasError
from atlas_jax.phases.run import Run
from atlas_jax.training import scoring
from atlas_jax.training import step as step_lib

log = logging.getLogger(__name__)


class TrainingError(AtlasError):
  """Training makes no progress any more; the text says where to look."""


class Trained:
  """Restored from the phase's newest whole checkpoint, or begun anew.

  Args:
    run: whose model the phase begins with.
    name: of the phase.
    cfg: of the phase.
    steps: that it has.
    tx: the optimizer.
    reference_dtype: of a copy of the model that stays beside it; None: none.

  Attributes:
    state: TrainState.
    reference: the copy, or None.
    done: steps that were done when it was saved.
    saved: what `save` was given with the checkpoint; None without one.
  """

  def __init__(
    self,
    run: Run,
    name: str,
    cfg: SftConfig | GrpoConfig,
    steps: int,
    tx,
    *,
    reference_dtype: str | None = None,
  ):
    self._run, self._name, self._cfg, self._steps = run, name, cfg, steps
    self._checkpoints = checkpoint.of_phase(run.config, run.workdir, name)
    self._skipped, self.done = 0, 0
    self.saved = self._stopped = None
    if self._checkpoints.latest() is not None:
      like = step_lib.as_trees(run.abstract_state(tx))
      if reference_dtype:
        copy = functools.partial(scoring.copy_model, dtype=reference_dtype)
        like["reference"] = jax.eval_shape(copy, like["model"])
      self.done, trees, extra = self._checkpoints.restore(like)
      self.state = step_lib.from_trees(trees)
      self.reference = trees.get("reference")
      self.saved, self._skipped = extra["saved"], extra["skipped"]
      log.info("%s continues from step %d of %d", name, self.done, steps)
    else:
      self.state = step_lib.init_state(run.model, tx)
      self.reference = None
      if reference_dtype:
        self.reference = scoring.copy_model(run.model, reference_dtype)

  def close(self) -> None:
    """Waits for what is being saved."""
    self._checkpoints.close()

  def look(
    self, step: int, numbers: dict[str, float], packed: packing.PackedBatch
  ) -> None:
    """Counts the updates that were left out.

    Raises:
      TrainingError: all of them, or cfg.max_skipped_steps in a row; the last
        batch is in failed/.
    """
    left_out = numbers["update_skipped"]
    self._skipped = self._skipped + 1 if left_out == 1 else 0
    if left_out > 0:
      log.warning(
        "step %d: gradient norm %g, update left out",
        step,
        numbers["grad_norm"],
      )
    if self._skipped < min(self._cfg.max_skipped_steps, self._steps):
      return
    path = self._run.workdir / "failed" / f"{self._name}_{step}.npz"

    def keep():
      with files.replacing(path) as file:
        np.savez(file, **packed._asdict())

    multihost.call_on_lead(keep)
    raise TrainingError(
      f"the updates of {self._skipped} steps in a row were left out, the last"
      f" with gradient norm {numbers['grad_norm']:g}; its batch is {path}."
      " NaN: look at its log-probs, the learning rate and the weights that it"
      " began with; too large: see config.grpo.skip_grad_norm"
    )

  def is_due(self, step: int) -> bool:
    """Whether to `save` after a step; a signal to any process asks for it."""
    self._stopped = multihost.stop_asked()
    due = step % self._cfg.checkpoint_every == 0 or step == self._steps
    return due or self._stopped is not None

  def save(self, step: int, state: Callable[[], dict]) -> None:
    """Saves what there is after `step`, if it is not saved already.

    Args:
      step: that is done.
      state: of what the phase trains on; its JSON goes along.

    Raises:
      Stopped: a signal asked for it.
    """
    if self._checkpoints.latest() != step:
      trees = step_lib.as_trees(self.state)
      if self.reference is not None:
        trees["reference"] = self.reference
      extra = {"saved": state(), "skipped": self._skipped}
      self._checkpoints.save(step, trees, extra)
    if self._stopped:
      raise self._stopped
