"""Reading and checking a sparse delta before a model is touched.

What the entries NAME.values and NAME.gaps mean is in README.md;
atlas_jax/serving/delta.py writes them.
"""

import math
from dataclasses import dataclass

import torch

from atlas_vllm.destinations import Box
from atlas_vllm.weights_file import InvalidWeights, boxes, each, finite, refuse

FORMAT = "atlas_delta"
_FAR = 65535


@dataclass(frozen=True)
class Change:
  """New values of one tensor and their flat row-major indices in all of it."""

  indices: torch.Tensor  # int64 [n]
  values: torch.Tensor  # [n]


def check_versions(
  metadata: dict[str, str], version: str, held: str | None
) -> None:
  """Refuses a delta that does not lead from what is held to `version`.

  Args:
    metadata: of the file.
    version: that was announced.
    held: the version of the last update; None: there was none.
  """
  base, target = metadata.get("base"), metadata.get("version")
  if base != held or held is None:
    has = f"holds {held}" if held else "has had no update since it started"
    raise InvalidWeights(
      f"the file is a delta of version {base}, and the server {has}"
    )
  if target != version:
    raise InvalidWeights(
      f"the file is a delta that makes version {target}, not {version}"
    )


def parse(
  entries: dict[str, torch.Tensor],
  shapes: dict[str, tuple[int, ...]],
  dtype: torch.dtype,
) -> dict[str, Change]:
  """The changes of a file, whole and fit for a model of these shapes.

  Raises:
    InvalidWeights: an unknown or lone entry, another dtype, an index out of
      range, more or fewer values than indices, a value that is not finite.
  """
  kinds = ("values", "gaps")
  stems = {entry.rpartition(".")[0] for entry in entries}
  whole = {f"{stem}.{kind}" for stem in stems for kind in kinds}
  placed = boxes(sorted(stems), shapes)
  refuse("has entries that are neither values nor gaps", set(entries) - whole)
  refuse("lacks entries", whole - set(entries))

  def change(stem):
    name, box = placed[stem]
    pair = (entries[f"{stem}.{kind}"] for kind in kinds)
    shape = shapes[name] if stem in shapes else box[2:]
    found = _change(stem, *pair, shape, dtype)
    return _in_whole(found, box, math.prod(shapes[name][1:]))

  parts: dict[str, list[Change]] = {}
  for stem, one in each(placed, change).items():
    parts.setdefault(placed[stem][0], []).append(one)
  return {
    name: Change(
      torch.cat([one.indices for one in of_one]),
      torch.cat([one.values for one in of_one]),
    )
    for name, of_one in parts.items()
  }


def _in_whole(change: Change, box: Box, columns: int) -> Change:
  """A change of a box as one of the tensor, which has so many columns."""
  indices = change.indices + box.row * columns + box.column
  if box.columns < columns:
    indices += change.indices // box.columns * (columns - box.columns)
  return Change(indices, change.values)


def _change(
  name: str,
  values: torch.Tensor,
  gaps: torch.Tensor,
  shape: tuple[int, ...],
  dtype: torch.dtype,
) -> Change:
  if (values.dtype, gaps.dtype) != (dtype, torch.uint16):
    raise InvalidWeights(
      f"the file has {values.dtype} values and {gaps.dtype} gaps of {name}"
      f" instead of {dtype} and {torch.uint16}"
    )
  if (values.dim(), gaps.dim()) != (1, 1):
    raise InvalidWeights(f"the file has entries of {name} that are not flat")
  if len(gaps) - len(values) > math.prod(shape) // _FAR:
    raise InvalidWeights(
      f"the file has {len(gaps)} gaps for {len(values)} values of {name}"
    )
  indices = _indices(gaps)
  if len(indices) != len(values):
    raise InvalidWeights(
      f"the file has {len(indices)} indices for {len(values)} values of {name}"
    )
  if len(indices) and indices[-1] >= math.prod(shape):
    raise InvalidWeights(
      f"the file has index {int(indices[-1])} of {name}, whose shape is {shape}"
    )
  if not finite(values):
    raise InvalidWeights(f"the file has NaN or infinite values in: {name}")
  return Change(indices, values)


def _indices(gaps: torch.Tensor) -> torch.Tensor:
  """Flat indices; they grow, since every code but an escape adds 1 or more."""
  steps = gaps.to(torch.int64)
  is_value = steps != 0
  steps[~is_value] = _FAR
  return (steps.cumsum(0) - 1)[is_value]
