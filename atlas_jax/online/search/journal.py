"""The candidates of a search, in the order in which they were accepted.

candidates.json    all of them, rewritten whole
best_prompts.json  the one with the best validation score so far, or, in the
                   end, the one that was chosen; see best_prompts.py
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from atlas_jax import directory, files
from atlas_jax.config import PromptsConfig


@dataclass(frozen=True)
class Candidate:
  """A candidate that was accepted; 0 is the seed.

  score is the mean over the validation problems that have one (`scores`).
  calls, tokens and dollars: the run's spend when it was accepted.
  """

  index: int
  parents: tuple[int, ...]
  round: int
  prompts: PromptsConfig
  score: float
  scores: Mapping[str, float]
  calls: int
  tokens: int
  dollars: float


@dataclass
class Journal:
  """Keeps candidates, and writes them to the run directory."""

  workdir: pathlib.Path
  candidates: list[Candidate] = field(default_factory=list)

  def __post_init__(self):
    self._path = self.workdir / "candidates.json"
    # Of an earlier process, which a resumed run finds one after the other.
    self._held = 0
    if self._path.exists():
      held = files.parse(files.read(self._path), self._path)
      self._held = len(held)

  def best(self, n: int) -> list[Candidate]:
    """The n best on validation; of equals the earlier."""
    ranked = sorted(self.candidates, key=lambda c: (-c.score, c.index))
    return ranked[:n]

  def write(self, *, all_known: bool = False) -> None:
    """Writes both files, unless they hold as many candidates or more.

    all_known: the search has ended, so more of them are none of its own.
    """
    known = len(self.candidates)
    if known == self._held or (known < self._held and not all_known):
      return
    self._held = known
    rows = [dataclasses.asdict(c) for c in self.candidates]
    directory.write_json(self._path, rows)
    (best,) = self.best(1)
    self.write_best(best, stage="search")

  def write_best(self, candidate: Candidate, **facts) -> None:
    """best_prompts.json: the templates, and facts about them."""
    content = {
      "prompts": dataclasses.asdict(candidate.prompts),
      "candidate": candidate.index,
      **facts,
      "score": candidate.score,
      "calls": candidate.calls,
      "tokens": candidate.tokens,
      "dollars": candidate.dollars,
    }
    directory.write_json(self.workdir / "best_prompts.json", content)
