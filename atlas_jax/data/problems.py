"""Problems: what they are, how they are split, in which order they come.

Where they come from is in sources.py and sft_sources.py. Policy of the splits:
  1. `validation_path` and `test_path` (or a source's own split names) give a
     split a file of its own;
  2. a split without one takes its share of `path` by a hash of the question,
     in proportion to `split_fractions`, so a question never changes its split
     when others are added or reordered;
  3. the same question in two splits is an error.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from atlas_jax.config import DataConfig

SPLITS = ("train", "validation", "test")

log = logging.getLogger(__name__)


class DataError(ValueError):
  """Data cannot be used; the text says which file, line and key, and why."""


@dataclass(frozen=True)
class Problem:
  """One question with its gold answer.

  id is a hash of the question. verifier says who compares an answer with the
  gold one: 'answer' (teaching/answers.py) or 'reasoning_gym' (the task's own
  scorer, with meta['task'] and meta['entry']). meta is the source's own.
  """

  id: str
  question: str
  answer: str
  verifier: str = "answer"
  meta: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class SftExample:
  """One supervised turn: a template of config.prompts, its fields, the reply.

  The template is rendered by the same code that renders it for sampling, so
  SFT trains the very prompt that RL uses.
  """

  template: str
  fields: Mapping[str, str]
  response: str


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


@dataclass(frozen=True)
class Splits:
  """The problems of a run, each question in one split only."""

  train: list[Problem]
  validation: list[Problem]
  test: list[Problem]


def load(config: DataConfig) -> Splits:
  """Reads the problems of `config.source` and splits them.

  Raises:
    DataError: an unknown source, a bad file, line or parameter, an empty
      source, or a question that stands in two splits.
  """
  from atlas_jax.data import sources

  fractions = dict(zip(SPLITS, config.split_fractions, strict=False))
  if (
    len(config.split_fractions) != len(SPLITS)
    or min(config.split_fractions) < 0
    or abs(sum(config.split_fractions) - 1) > 1e-6
  ):
    raise DataError(
      "config.data.split_fractions must be three shares (train, validation,"
      f" test) that sum to 1, got {config.split_fractions}"
    )
  own = sources.read_own_splits(config)
  rest = [name for name in SPLITS if name not in own]
  weights = [fractions[name] for name in rest]
  if sum(weights) == 0:
    weights = [1.0] + [0.0] * (len(rest) - 1)  # train: the one always in rest
  splits = {name: distinct(problems) for name, problems in own.items()}
  splits |= {name: [] for name in rest}
  for problem in distinct(sources.read(config)):
    splits[split_of(problem.question, weights, rest)].append(problem)
  _refuse_overlap(splits)
  log.info(
    "problems of %s: %s",
    config.source,
    ", ".join(f"{len(splits[name])} {name}" for name in SPLITS),
  )
  return Splits(**splits)


def load_sft(
  config: DataConfig, held_out: Collection[Problem] = ()
) -> list[SftExample]:
  """The examples of `config.sft_source`.

  Args:
    config: the source, its path and its parameters.
    held_out: examples on the questions of these problems are left out.

  Raises:
    DataError: as load, or no example is left.
  """
  from atlas_jax.data import sft_sources

  examples = sft_sources.read_sft(config)
  keys = {question_key(problem.question) for problem in held_out}
  kept = [e for e in examples if question_key(e.fields["question"]) not in keys]
  if len(kept) < len(examples):
    log.info(
      "%d of %d SFT examples left out: their questions are held out",
      len(examples) - len(kept),
      len(examples),
    )
  if not kept:
    raise DataError(f"config.data.sft_source={config.sft_source}: no examples")
  return kept


def distinct(problems: Sequence[Problem]) -> list[Problem]:
  """The problems without repeats.

  Raises:
    DataError: one question has two different answers.
  """
  first: dict[str, Problem] = {}
  for problem in problems:
    kept = first.setdefault(problem.id, problem)
    if kept.answer != problem.answer:
      raise DataError(
        f"the question {_shorten(problem.question)} has two answers:"
        f" {kept.answer!r} and {problem.answer!r}"
      )
  if len(first) < len(problems):
    log.warning("%d repeated problems left out", len(problems) - len(first))
  return list(first.values())


def _refuse_overlap(splits: Mapping[str, Sequence[Problem]]) -> None:
  home: dict[str, str] = {}
  for name, problems in splits.items():
    for problem in problems:
      other = home.setdefault(problem.id, name)
      if other != name:
        raise DataError(
          f"the question {_shorten(problem.question)} stands in both the"
          f" {other} and the {name} split; remove it from one of them"
        )


def _shorten(text: str) -> str:
  return repr(text if len(text) <= 80 else text[:77] + "...")


T = TypeVar("T")


@dataclass(frozen=True)
class Position:
  """Where a stream stands: `offset` items of `epoch` have been taken."""

  epoch: int
  offset: int
  size: int


class ProblemStream(Generic[T]):
  """Endless passes over items, each in an order made of (seed, epoch).

  Every process holds the same stream and takes the same items; `share` is
  what one of them works on.
  """

  def __init__(
    self,
    items: Sequence[T],
    *,
    seed: int,
    host_index: int = 0,
    host_count: int = 1,
  ):
    if not items:
      raise DataError("a stream needs at least one item; the split is empty")
    if not 0 <= host_index < host_count:
      raise ValueError(f"host {host_index} of {host_count} does not exist")
    self._items = list(items)
    self._seed = seed
    self._host_index = host_index
    self._host_count = host_count
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

  def share(self, taken: Sequence[T]) -> list[T]:
    """What this host works on of what was taken: every host_count-th item."""
    return list(taken[self._host_index :: self._host_count])

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
