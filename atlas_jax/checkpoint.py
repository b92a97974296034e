"""Checkpoints of one phase, with Orbax: trees of sharded arrays and JSON.

What a phase starts from, in this order (each phase applies it the same way):
  1. its own latest checkpoint, WORKDIR/checkpoints/PHASE: everything, and it
     goes on exactly where that was saved;
  2. else the weights, and nothing more, of the latest checkpoint of the phase
     before it that trained: optimizer, step and data begin anew;
  3. else the weights of config.teacher.path, drawn at random when
     config.teacher.random_init says so.

A checkpoint directory has its final name only once it is complete, so a kill
leaves the one before it. Every process calls save and restore; each writes and
reads its own shards.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import (
  AbstractMesh,
  NamedSharding,
  PartitionSpec,
  SingleDeviceSharding,
)


class CheckpointError(ValueError):
  """A checkpoint that is not there, or does not fit what it is read into."""


_EXTRA = "extra"


def abstract(tree: Any) -> Any:
  """Shapes, dtypes and concrete shardings of a tree, abstract or not.

  A leaf of `jax.eval_shape` knows no devices: it gets those of the mesh that
  is set, or without one the first device.
  """
  mesh = jax.sharding.get_mesh()

  def one(x):
    sharding = x.sharding
    if mesh.empty and sharding is None:
      sharding = SingleDeviceSharding(jax.devices()[0])
    elif sharding is None:
      sharding = NamedSharding(mesh, PartitionSpec())
    elif isinstance(getattr(sharding, "mesh", None), AbstractMesh):
      sharding = NamedSharding(mesh, sharding.spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(one, tree)


def _shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
  """path -> (shape, dtype) of every array of a tree."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      tuple(leaf.shape),
      str(leaf.dtype),
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


class Checkpoints:
  """The checkpoints of one directory; the newest `keep` stay.

  Use it as a context manager, or call `close`.
  """

  def __init__(self, directory: pathlib.Path, *, keep: int = 2):
    self._directory = pathlib.Path(directory).absolute()
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=True
      ),
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def latest(self) -> int | None:
    """The newest complete step, or None."""
    return self._manager.latest_step()

  def save(self, step: int, trees: Mapping[str, Any], extra: dict) -> None:
    """Saves `trees` by name, and `extra` (JSON: data position, counters).

    A tree is a container of arrays, not one bare array.

    Returns once the arrays are copied; they are written in the background,
    and the call after it, or close, waits for that. A step that is there
    already is left alone.
    """
    if step in self._manager.all_steps():
      return
    shapes = {name: _shapes(tree) for name, tree in trees.items()}
    items = {n: ocp.args.StandardSave(tree) for n, tree in trees.items()}
    items[_EXTRA] = ocp.args.JsonSave({"extra": extra, "shapes": shapes})
    self._manager.save(step, args=ocp.args.Composite(**items))

  def restore(
    self, like: Mapping[str, Any], step: int | None = None
  ) -> tuple[dict[str, Any], dict]:
    """(trees, extra) of a step, by default the latest.

    Args:
      like: name -> tree whose shapes, dtypes and shardings the arrays get
        (abstract or not). Trees that are not named are not read.

    Raises:
      CheckpointError: no such step or tree, or another shape or dtype; the
        text names the first arrays that differ.
    """
    self._manager.wait_until_finished()
    steps = sorted(self._manager.all_steps())
    if step is None and steps:
      step = steps[-1]
    if step not in steps:
      what = "no checkpoint" if step is None else f"no checkpoint {step}"
      raise CheckpointError(
        f"{what} in {self._directory}; there are: {steps or 'none'}"
      )
    args = ocp.args.Composite(**{_EXTRA: ocp.args.JsonRestore()})
    saved = self._manager.restore(step, args=args)[_EXTRA]
    for name, tree in like.items():
      self._check(step, name, tree, saved["shapes"])
    args = ocp.args.Composite(
      **{n: ocp.args.StandardRestore(abstract(t)) for n, t in like.items()}
    )
    restored = self._manager.restore(step, args=args)
    return {name: restored[name] for name in like}, saved["extra"]

  def _check(self, step: int, name: str, tree: Any, saved: dict) -> None:
    where = f"checkpoint {step} in {self._directory}"
    if name not in saved:
      raise CheckpointError(
        f"{where} has no {name!r}; it has: {', '.join(sorted(saved))}"
      )
    there = {k: (tuple(s), d) for k, (s, d) in saved[name].items()}
    here = _shapes(tree)
    differences = [
      f"{k}: saved {there.get(k, 'nothing')}, wanted {here.get(k, 'nothing')}"
      for k in sorted(there.keys() | here.keys())
      if k not in there or k not in here or there[k] != here[k]
    ]
    if differences:
      more = len(differences) - 3
      raise CheckpointError(
        f"{where} is of another model or optimizer: {name}: "
        + "; ".join(differences[:3])
        + (f"; and {more} more" if more > 0 else "")
      )

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.wait_until_finished()
    self._manager.close()
