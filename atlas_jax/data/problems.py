"""Problems and SFT examples: their types, their split and their order.

sources.py and sft_sources.py read them; splits.py loads those of a run.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from atlas_jax.errors import AtlasError

SPLITS = ("train", "validation", "test")


class DataError(AtlasError):
  """Data that cannot be used; the text names file, line and key, and why."""


@dataclass(frozen=True)
class Problem:
  """A question with its gold answer.

  The verifier compares an answer with the gold one: 'answer' is
  teaching/answers.py, 'reasoning_gym' the task's own scorer (with meta['task']
  and meta['entry']), any other the function that config.data.verifier names.
  """

  id: str  # a hash of the question
  question: str
  answer: str
  verifier: str = "answer"
  meta: Mapping = field(default_factory=dict)  # other fields of its row
  where: str = field(default="", compare=False)  # FILE:LINE

  @property
  def kind(self) -> str | None:
    """The kind that its source names: a field of its row, or a gym's task."""
    kind = self.meta.get("kind", self.meta.get("task"))
    return None if kind is None else str(kind)


@dataclass(frozen=True)
class SftExample:
  """A supervised turn: a template of config.prompts, its fields, the reply.

  The template is rendered by the same code that renders it for sampling, so
  SFT trains the very prompt that RL uses.
  """

  template: str
  fields: Mapping[str, str]
  response: str
  where: str = field(default="", compare=False)  # FILE:LINE


def question_key(question: str) -> str:
  """A question with uniform white space: equal keys are one question."""
  return " ".join(question.split())


def make_problem(question: str, answer: str, **rest) -> Problem:
  """A Problem whose id is the hash of its question."""
  digest = hashlib.sha256(question_key(question).encode()).hexdigest()
  return Problem(id=digest[:16], question=question, answer=answer, **rest)


def split_of(
  question: str, fractions: Sequence[float], names: Sequence[str] = SPLITS
) -> str:
  """The split of a question, by its hash alone.

  Args:
    question: only its words count, not its white space.
    fractions: one weight for each name, not all zero.
    names: the splits to choose among.
  """
  digest = hashlib.sha256(b"split/" + question_key(question).encode()).digest()
  point = int.from_bytes(digest[:8], "big") / 2**64 * sum(fractions)
  last = ""
  for name, fraction in zip(names, fractions, strict=True):
    if fraction > 0:
      last = name
      if point < fraction:
        return name
    point -= fraction
  return last  # point reached the end by rounding


T = TypeVar("T")


class ProblemStream(Generic[T]):
  """Endless epochs over the same items, each in an order of (seed, epoch).

  Every process holds the same stream and takes the same items; the devices of
  each then hold its part of the packed rows.
  """

  def __init__(self, items: Sequence[T], *, seed: int):
    if not items:
      raise DataError("a stream needs at least one item; the split is empty")
    self._items = list(items)
    self._seed = seed
    self._epoch, self._offset = 0, 0
    self._order = self._order_of(0)

  def _order_of(self, epoch: int) -> list[int]:
    # A hash, not a generator: the same on every version of every library.
    def key(index):
      return hashlib.sha256(f"{self._seed}/{epoch}/{index}".encode()).digest()

    return sorted(range(len(self._items)), key=key)

  def take(self, n: int) -> list[T]:
    """The next n items of the whole run; goes on into the next epoch."""
    taken = []
    while len(taken) < n:
      if self._offset == len(self._order):
        self._epoch, self._offset = self._epoch + 1, 0
        self._order = self._order_of(self._epoch)
      order = self._order[self._offset :][: n - len(taken)]
      taken += [self._items[i] for i in order]
      self._offset += len(order)
    return taken

  def state(self) -> dict[str, int]:
    """The position, for a checkpoint: `offset` items of `epoch` are taken."""
    return {
      "epoch": self._epoch,
      "offset": self._offset,
      "size": len(self._items),
    }

  def restore(self, state: Mapping[str, int]) -> None:
    """Continues at a position that `state()` gave.

    Raises:
      DataError: the position is of a stream with another number of items.
    """
    if state["size"] != len(self._items):
      raise DataError(
        f"the checkpoint was made with {state['size']} items, the data now"
        f" has {len(self._items)}; restore the data or start a new run"
      )
    self._epoch, self._offset = int(state["epoch"]), int(state["offset"])
    self._order = self._order_of(self._epoch)
