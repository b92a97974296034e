"""Loads the problems and SFT examples of a run; a question has one split.

Policy of the splits:
  1. `validation_path` and `test_path` (or a source's own split names) give a
     split a file of its own;
  2. a split without one takes its share of `path` by a hash of the question,
     in proportion to `split_fractions`, so a question never changes its split
     when others are added or reordered;
  3. the same question in two splits is an error.
"""

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from atlas_jax import targets
from atlas_jax.config import DataConfig
from atlas_jax.data import sources
from atlas_jax.data.problems import (
  SPLITS,
  DataError,
  Problem,
  ProblemStream,
  SftExample,
  question_key,
  split_of,
)
from atlas_jax.data.sft_sources import SFT_SOURCES
from atlas_jax.teaching.equality import exact_equal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
  """The problems of a run; no question is in two splits."""

  train: list[Problem]
  validation: list[Problem]
  test: list[Problem]


def load(config: DataConfig) -> Splits:
  """Reads the problems of `config.source` and splits them.

  Raises:
    DataError: an unknown source, a bad file, line or parameter, an empty
      source, or a question that has two answers or stands in two splits.
  """
  if config.verifier is not None:
    targets.function(config.verifier, "config.data.verifier", takes=3)
  own = sources.read_own_splits(config)
  weights = {
    name: fraction
    for name, fraction in zip(SPLITS, config.split_fractions, strict=True)
    if name not in own
  }
  if not any(weights.values()):
    weights["train"] = 1.0
  placed = [(name, p) for name, problems in own.items() for p in problems]
  for p in sources.read(config):
    name = split_of(p.question, tuple(weights.values()), tuple(weights))
    placed.append((name, p))
  if config.verifier is not None:
    placed = [(s, replace(p, verifier=config.verifier)) for s, p in placed]
  splits = _without_repeats(placed)
  log.info(
    "problems of %s: %s",
    config.source,
    ", ".join(f"{len(splits[name])} {name}" for name in SPLITS),
  )
  return Splits(**splits)


def sample(
  splits: Splits, name: str, wanted: int, *, source: str, seed: int
) -> list[Problem]:
  """Draws `wanted` problems of a split by the seed; all where it has fewer.

  Raises:
    DataError: the split of config.data.source, `source`, is empty.
  """
  problems = getattr(splits, name)
  if not problems:
    raise DataError(
      f"the {name} split of config.data.source={source} is empty; give"
      f" config.data.{'' if name == 'train' else name + '_'}path, or more"
      " problems"
    )
  if len(problems) < wanted:
    log.warning(
      "%d problems are asked for, the %s split has %d",
      wanted,
      name,
      len(problems),
    )
  stream = ProblemStream(problems, seed=seed)
  return stream.take(min(wanted, len(problems)))


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
  examples = sources.read_named(SFT_SOURCES, config, "sft_")
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


def fingerprint(splits: Splits, examples: Sequence[SftExample]) -> str:
  """A hash of all that a run trains on and is measured by, in its order."""
  digest = hashlib.sha256()
  for name in SPLITS:
    for p in getattr(splits, name):
      digest.update(repr((name, p.question, p.answer, p.verifier)).encode())
  for e in examples:
    fields = sorted(e.fields.items())
    digest.update(repr((e.template, fields, e.response)).encode())
  return digest.hexdigest()[:16]


def _without_repeats(
  placed: Sequence[tuple[str, Problem]],
) -> dict[str, list[Problem]]:
  """{split: its problems}, each question once.

  Args:
    placed: (split, problem).

  Raises:
    DataError: one question is in two splits, or has two different answers.
  """
  splits: dict[str, list[Problem]] = {name: [] for name in SPLITS}
  first: dict[str, tuple[str, Problem]] = {}
  for name, problem in placed:
    if problem.id not in first:
      first[problem.id] = (name, problem)
      splits[name].append(problem)
    split, kept = first[problem.id]
    where = f"{problem.where}: the question {_shorten(problem.question)}"
    if split != name:
      raise DataError(
        f"{where} stands in both the {split} and the {name} split; remove it"
        " from one"
      )
    if not exact_equal(kept.answer, problem.answer):
      raise DataError(
        f"{where} has two answers: {kept.answer!r} ({kept.where}) and"
        f" {problem.answer!r}"
      )
  if len(first) < len(placed):
    log.warning("%d repeated problems left out", len(placed) - len(first))
  return splits


def _shorten(text: str) -> str:
  return repr(text if len(text) <= 80 else text[:77] + "...")
