"""The ranks of one tensor-parallel engine agree.

Each holds a part of the model and sees each update. What one refuses all
refuse: none keeps what another does not have, and none waits for another.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch.distributed
from vllm.distributed import parallel_state

from atlas_vllm import checksum
from atlas_vllm.destinations import Box
from atlas_vllm.weights_file import InvalidWeights

BoxSums = dict[Box, np.ndarray]
Sums = dict[str, BoxSums]  # of each tensor's boxes that a rank has
T = TypeVar("T")


def gather(value: T) -> list[T]:
  """What each rank gives, in the order of ranks; all must call it."""
  if not parallel_state.model_parallel_is_initialized():
    return [value]
  group = parallel_state.get_tp_group()
  values = [value] * group.world_size
  if len(values) > 1:
    torch.distributed.all_gather_object(values, value, group=group.cpu_group)
  return values


def agree(work: Callable[[], T]) -> list[T]:
  """What `work` gives on each rank.

  Raises:
    InvalidWeights: another rank refused, or failed; else what `work` raises.
  """
  try:
    own, error = work(), None
  except Exception as raised:
    own, error = None, raised
  answers = gather((own, None if error is None else str(error)))
  if error is not None:
    raise error
  for rank, (_, text) in enumerate(answers):
    if text is not None:
      raise InvalidWeights(f"rank {rank}: {text}")
  return [own for own, _ in answers]


@contextlib.contextmanager
def last_one_raises() -> Iterator[None]:
  """Inside, of an error that every rank has the last rank alone raises.

  vLLM reads the ranks' answers in order and stops at the first error; the
  answers behind it would pass for those to its next call.
  """
  try:
    yield
  except Exception:
    if parallel_state.model_parallel_is_initialized():
      group = parallel_state.get_tp_group()
      if group.rank_in_group < group.world_size - 1:
        return
    raise


def whole(of_ranks: list[Sums]) -> dict[str, np.ndarray]:
  """The sums of whole tensors, of those of the boxes that each rank has.

  A box that several ranks have counts once.

  Raises:
    InvalidWeights: they have different values in it.
  """
  found = {}
  for name in of_ranks[0]:
    distinct: BoxSums = {}
    for rank in of_ranks:
      for box, sums in rank[name].items():
        if not np.array_equal(distinct.setdefault(box, sums), sums):
          raise InvalidWeights(f"ranks hold different copies of {name}")
    found[name] = sum(distinct.values(), start=checksum.parse("0" * 16))
  return found
