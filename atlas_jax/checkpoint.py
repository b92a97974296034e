"""Checkpoints of one phase, with Orbax: trees of sharded arrays and JSON.

A checkpoint directory has its final name only once it is complete, so a kill
leaves the one before it. Every process calls save and restore; each writes and
reads its own shards.

With each checkpoint goes atlas.json: `extra`, the files with their sizes and a
sum over the bits of each tree. What does not agree with it when it is read, or
what one process finds cut, is damaged: on all processes the newest whole
checkpoint takes its place. A disk that fails ends the run instead. Of a tree
that lies elsewhere no array is written, only its sum and where it came from.
"""

import contextlib
import functools
import json
import logging
import sys
import threading
import types
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from atlas_jax import multihost, sharding, stopping
from atlas_jax.config import RunConfig
from atlas_jax.errors import AtlasError

log = logging.getLogger(__name__)


class CheckpointError(AtlasError):
  """A checkpoint that is not there, or does not fit what it is read into."""


class Damaged(CheckpointError):
  """A checkpoint that is not what was saved."""


_CONTENT = "atlas.json"
_CONTENT_KEYS = {"step", "extra", "shapes", "sums", "elsewhere", "files"}
_SMALL_BYTES = 1 << 20
_NO_TREES: Mapping = types.MappingProxyType({})


def _shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
  """path -> (shape, dtype) of every array of a tree."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
  return {name(path): (tuple(x.shape), str(x.dtype)) for path, x in leaves}


@jax.jit
def _array_sum(x: jax.Array) -> jax.Array:
  """uint32 over the bits of an array."""
  # GPUs do no arithmetic on what lies in the memory of the host.
  x = jax.device_put(x, jax.memory.Space.Device)
  if x.dtype != jnp.bool_:
    x = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
  # Mixed, so that two changes do not cancel as they do in a plain sum.
  mixed = (x.astype(jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)
  mixed = (mixed ^ mixed >> 15) * jnp.uint32(0x85EBCA6B)
  return jnp.sum(mixed ^ mixed >> 13, dtype=jnp.uint32)


def _bit_sum(tree: Any) -> int:
  """A sum over the bits of all arrays, one by one: equal on every mesh."""
  total = 0
  for x in jax.tree.leaves(tree):
    total = (31 * total + int(_array_sum(x))) % 2**32
  return total


def _wait_for_others(*, key: str, timeout_ms: int) -> None:
  """Where the threads of Orbax that write wait for the other processes.

  Of what has failed on this one the others would hear after 20 minutes.
  """
  writes = threading.current_thread() is not threading.main_thread()
  if writes and (error := sys.exception()) is not None:
    raise error
  ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


def _files(folder: epath.Path, inside: str = "") -> dict[str, list[int]]:
  """name -> [bytes, checksum of a small one (0: the bit sums hold it)]."""
  out = {}
  for path in folder.iterdir():
    name = inside + path.name
    if path.is_dir():
      out |= _files(path, f"{name}/")
    elif inside:  # at the top are Orbax's own, which change at the end
      size = path.stat().length
      total = zlib.crc32(path.read_bytes()) if 0 < size < _SMALL_BYTES else 0
      out[name] = [size, total]
  return out


class Checkpoints(contextlib.AbstractContextManager):
  """The checkpoints of one directory; the newest `keep`, and `best`, stay.

  Use it as a context manager, or call `close`.
  """

  def __init__(
    self, folder: epath.PathLike, *, keep: int = RunConfig.keep_checkpoints
  ):
    self._directory = epath.Path(folder)
    self.best: int | None = None  # a step that stays among older ones
    self._keep = keep
    self._damaged: list[int] = []  # the newer ones
    self._content: dict = {}  # of the step that is being saved
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self,
        create=True,
        enable_async_checkpointing=True,
        async_options=ocp.AsyncOptions(
          barrier_sync_fn=_wait_for_others,
          post_finalization_callback=self._write_content,
        ),
      ),
    )
    # Another host may see an older state of a shared disk.
    multihost.wait_until_seen(self._directory, self._listed)

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    """Orbax's question: which of these stay."""
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = {*sorted(steps)[-self._keep :], self.best}
    return [step in kept for step in steps]

  def __exit__(self, *_):
    self.close()

  def __contains__(self, step: int) -> bool:
    return step in self._manager.all_steps()

  def _listed(self) -> list[int]:
    """The steps that lie there now."""
    self._manager.reload()
    return sorted(self._manager.all_steps())

  def latest(self) -> int | None:
    """The newest complete step that is not known to be damaged, or None."""
    steps = set(self._manager.all_steps()) - set(self._damaged)
    return max(steps, default=None)

  def save(
    self,
    step: int,
    trees: Mapping[str, Any],
    extra: dict,
    elsewhere: Mapping[str, str] = _NO_TREES,
  ) -> None:
    """Saves `trees` by name, and `extra` (JSON: data position, counters).

    A tree is a container of arrays, not one bare array. `elsewhere` names those
    that can be made again, and from what: their arrays are not written.

    Returns once the arrays are copied; they are written in the background,
    and the call after it, or close, waits for that. A step that is there
    already is left alone; damaged ones that `restore` passed by are removed.
    """
    with self._writing():
      self._manager.wait_until_finished()
      while self._damaged:
        self._manager.delete(self._damaged.pop())
    if step in self._manager.all_steps():
      return
    self._content = {
      "step": step,
      "extra": extra,
      "shapes": {name: _shapes(tree) for name, tree in trees.items()},
      "sums": {name: _bit_sum(tree) for name, tree in trees.items()},
      "elsewhere": dict(elsewhere),
    }
    items = {
      name: ocp.args.StandardSave(tree)
      for name, tree in trees.items()
      if name not in elsewhere
    }
    with self._writing():
      self._manager.save(step, args=ocp.args.Composite(**items))

  @contextlib.contextmanager
  def _writing(self):
    """Errors of Orbax and of the disk become one line of ours."""
    try:
      yield
    except Exception as error:
      first = str(error).partition("\n")[0][:500]
      raise CheckpointError(
        f"a checkpoint in {self._directory} cannot be written: {first}"
      ) from error

  def _write_content(self) -> None:
    """Called when all files are there, before the step has its final name."""
    if multihost.is_lead():
      step = str(self._content["step"])
      places = self._directory.iterdir()
      place = max(p for p in places if p.name.split(".")[0] == step)
      text = json.dumps({**self._content, "files": _files(place)})
      (place / _CONTENT).write_text(f"{zlib.crc32(text.encode())} {text}")

  def restore(
    self,
    like: Mapping[str, Any],
    again: Mapping[str, Any] = _NO_TREES,
    step: int | None = None,
  ) -> tuple[int, dict, dict]:
    """(step, trees, extra) of the newest checkpoint that is whole, or of one.

    Args:
      like: name -> tree whose shapes, dtypes and shardings the arrays get
        (abstract or not). Trees that are not named are not read.
      again: name -> tree that was made again, also returned. It must be what
        was saved, whether its arrays are in the checkpoint or not.
      step: to read; None: the newest.

    Raises:
      CheckpointError: none, or another tree, shape or dtype (the text names
        the first arrays that differ); or all are damaged; or what was made
        again is not what was saved; or the system of a process failed.
      OSError: the disk of the lead failed (elsewhere a LeadError).
    """
    self._manager.wait_until_finished()
    if step is not None:
      return step, *self._read(step, like, again)
    steps = sorted(self._manager.all_steps())
    if not steps:
      raise CheckpointError(f"no checkpoint in {self._directory}")
    self._damaged = []
    for at in reversed(steps):
      try:
        trees, extra = self._read(at, like, again)
      except Damaged as error:
        log.warning("%s", error)
        self._damaged.append(at)
        continue
      if self._damaged:
        log.warning("going on from checkpoint %d, the newest whole one", at)
      return at, trees, extra
    raise CheckpointError(
      f"all checkpoints in {self._directory} are damaged: {self._damaged};"
      " put a whole one there, or remove the directory to begin anew"
    )

  def _read(self, step: int, like, again) -> tuple[dict[str, Any], dict]:
    where = f"checkpoint {step} in {self._directory}"
    lost, content = multihost.call_on_lead(lambda: self._compare(step))
    if lost:
      raise Damaged(f"{where} is damaged: {lost}")
    for name, tree in {**like, **again}.items():
      self._check(where, name, tree, content["shapes"])
    for name, tree in again.items():
      if _bit_sum(tree) != content["sums"][name]:
        place = content["elsewhere"].get(name, "the weights it was copied from")
        raise CheckpointError(
          f"the {name} of {where} is not what was saved: put back {place}, or"
          " remove the directory to begin anew"
        )
    trees = {}

    def read_share() -> list | None:
      """[whether the system failed, the text], where this process cannot."""
      read = ocp.StandardCheckpointHandler().restore
      try:
        for name, tree in like.items():
          args = ocp.args.StandardRestore(sharding.abstract(tree))
          trees[name] = read(self._directory / str(step) / name, args=args)
      except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # this machine's, not the files'
      except Exception as error:
        cause = error.__cause__ or error  # Orbax wraps what TensorStore raises
        why = str(cause).partition("\n")[0]  # os_error_code: by TensorStore
        return [isinstance(cause, OSError) or "os_error_code" in why, why[:500]]

    for number, failed in enumerate(multihost.call_on_all(read_share)):
      if failed:
        kind = CheckpointError if failed[0] else Damaged
        raise kind(f"{where} cannot be read by process {number}: {failed[1]}")
    for name in like:
      if _bit_sum(trees[name]) != content["sums"][name]:
        raise Damaged(f"{where} is damaged: {name} is not what was saved")
    return {**trees, **again}, content["extra"]

  def _compare(self, step: int) -> tuple[str | None, dict]:
    """(what is wrong with the files of a step, its atlas.json)."""
    folder = self._directory / str(step)
    try:
      size = (folder / _CONTENT).stat().length  # 0 of a FIFO, without an end
      words = (folder / _CONTENT).read_text() if size else ""
      total, _, text = words.partition(" ")
      if total != str(zlib.crc32(text.encode())):
        return f"{_CONTENT} is not what was saved", {}
      content, there = json.loads(text), _files(folder)
      content = {"elsewhere": {}, **content}  # the first ones had none
      if content.keys() != _CONTENT_KEYS:
        return f"{_CONTENT} is of another version", {}
      if content["step"] != step:
        return f"it is checkpoint {content['step']} under another name", {}
    except (FileNotFoundError, ValueError, AttributeError) as error:
      return f"{_CONTENT} cannot be read ({type(error).__name__})", {}
    for name, saved in content["files"].items():
      if there.get(name) != saved:
        return f"{name} is {'cut or changed' if name in there else 'gone'}", {}
    return None, content

  def _check(self, where: str, name: str, tree: Any, saved: dict) -> None:
    if name not in saved:
      raise CheckpointError(
        f"{where} has no {name!r}; it has: {', '.join(sorted(saved))}"
      )
    there = {k: (tuple(s), d) for k, (s, d) in saved[name].items()}
    here = _shapes(tree)
    differences = [
      f"{k}: saved {there.get(k, 'nothing')}, wanted {here.get(k, 'nothing')}"
      for k in sorted(there.keys() | here.keys())
      if there.get(k) != here.get(k)
    ]
    if differences:
      more = len(differences) - 3
      raise CheckpointError(
        f"{where} is of another model or optimizer: {name}: "
        + "; ".join(differences[:3])
        + (f"; and {more} more" if more > 0 else "")
      )

  def close(self) -> None:
    """Waits for what is being written; a signal waits too."""
    with stopping.held(), self._writing():
      self._manager.wait_until_finished()
      self._manager.close()
