"""Problems: what they are, to which split, in which order they come.

Where they come from is in sources.py and sft_sources.py; splits.py loads them.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from atlas_jax.errors import AtlasError

SPLITS = ("train", "validation", "test")


class DataError(AtlasError):
  """Data cannot be used; the text says which file, line and key, and why."""


@dataclass(frozen=True)
class Problem:
  """One question with its gold answer.

  id is a hash of the question. verifier says who compares an answer with the
  gold one: 'answer' (teaching/answers.py), 'reasoning_gym' (the task's own
  scorer, with meta['task'] and meta['entry']) or the function of the user's
  that config.data.verifier names. meta is the source's own. where is FILE:LINE.
  """

  id: str
  question: str
  answer: str
  verifier: str = "answer"
  meta: Mapping = field(default_factory=dict)
  where: str = field(default="", compare=False)


@dataclass(frozen=True)
class SftExample:
  """One supervised turn: a template of config.prompts, its fields, the reply.

  The template is rendered by the same code that renders it for sampling, so
  SFT trains the very prompt that RL uses. where is FILE:LINE.
  """

  template: str
  fields: Mapping[str, str]
  response: str
  where: str = field(default="", compare=False)


def question_key(question: str) -> str:
  """The question with uniform white space: equal keys, one question."""
  return " ".join(question.split())


def make_problem(question: str, answer: str, **rest) -> Problem:
  """A Problem whose id is the hash of its question."""
  digest = hashlib.sha256(question_key(question).encode()).hexdigest()
  return Problem(id=digest[:16], question=question, answer=answer, **rest)


def split_of(
  question: str,
  fractions: Sequence[float],
  names: Sequence[str] = SPLITS,
) -> str:
  """The split that a question belongs to, by its hash alone.

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
  return last  # point met the end by rounding


T = TypeVar("T")


@dataclass(frozen=True)
class Position:
  """Where a stream stands: `offset` items of `epoch` have been taken."""

  epoch: int
  offset: int
  size: int


class ProblemStream(Generic[T]):
  """Endless passes over items, each in an order made of (seed, epoch).

  Every process holds the same stream and takes the same items; the devices of
  each then hold its part of the packed rows.
  """

  def __init__(self, items: Sequence[T], *, seed: int):
    if not items:
      raise DataError("a stream needs at least one item; the split is empty")
    self._items = list(items)
    self._seed = seed
    self._position = Position(0, 0, len(self._items))
    self._order = self._order_of(0)

  def _order_of(self, epoch: int) -> list[int]:
    # A hash, not a generator: the same on every version of every library.
    def key(index):
      return hashlib.sha256(f"{self._seed}/{epoch}/{index}".encode()).digest()

    return sorted(range(len(self._items)), key=key)

  def take(self, n: int) -> list[T]:
    """The next n items of the whole run; goes on into the next epoch."""
    taken, epoch, offset = [], self._position.epoch, self._position.offset
    while len(taken) < n:
      if offset == len(self._order):
        epoch, offset = epoch + 1, 0
        self._order = self._order_of(epoch)
      chosen = self._order[offset : offset + n - len(taken)]
      taken += [self._items[i] for i in chosen]
      offset += len(chosen)
    self._position = Position(epoch, offset, len(self._items))
    return taken

  def state(self) -> dict[str, int]:
    """The position, for a checkpoint."""
    return dataclasses.asdict(self._position)

  def restore(self, state: Mapping[str, int]) -> None:
    """Continues from a position of `state()`.

    Raises:
      DataError: the position is of a stream with another number of items.
    """
    position = Position(**{k: int(v) for k, v in state.items()})
    if position.size != len(self._items):
      raise DataError(
        f"the checkpoint was made with {position.size} items, the data now"
        f" has {len(self._items)}; restore the data or start a new run"
      )
    self._position = position
    self._order = self._order_of(position.epoch)
