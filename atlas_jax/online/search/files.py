"""The files of a search: its candidates and its episodes.

candidates.json    the accepted ones in order, rewritten whole
best_prompts.json  the one with the best validation score so far, or, in the
                   end, the one that was chosen; see best_prompts.py
costs.json         of each role and model
episodes/train.jsonl       rollouts of the rounds
episodes/validation.jsonl  of accepted candidates, and fresh samples
episodes/test.jsonl        of the test split

Episodes are lines of training's format (teaching/transcripts.py), which name
the candidate's templates by their fingerprint; `data.sft_source=episodes` reads
those of the templates that were kept, without the test split.
"""

import json
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from atlas_jax import directory
from atlas_jax.config import PromptsConfig
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search.rollouts import Rollout
from atlas_jax.teaching import transcripts
from atlas_jax.teaching.prompts import fingerprint


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
  """Keeps candidates, and writes them to the run directory, with the costs."""

  workdir: pathlib.Path
  record: Record
  candidates: list[Candidate] = field(default_factory=list)
  stage: str = "search"

  def best(self, n: int) -> list[Candidate]:
    """The n best on validation; of equals the earlier."""
    ranked = sorted(self.candidates, key=lambda c: (-c.score, c.index))
    return ranked[:n]

  def write(self) -> None:
    """Writes all three files, the best so far among them."""
    rows = [asdict(c) for c in self.candidates]
    directory.write_json(self.workdir / "candidates.json", rows)
    (best,) = self.best(1)
    self.write_best(best)
    self.write_costs()

  def write_costs(self) -> None:
    """costs.json: what each role and model did cost by now."""
    directory.write_json(self.workdir / "costs.json", self.record.costs())

  def write_best(self, candidate: Candidate, **facts) -> None:
    """best_prompts.json: the templates, and facts about them."""
    facts = {"stage": self.stage, **facts}
    c = candidate
    spend = {"calls": c.calls, "tokens": c.tokens, "dollars": c.dollars}
    directory.write_json(
      self.workdir / "best_prompts.json",
      {"prompts": asdict(c.prompts), "candidate": c.index}
      | facts
      | {"score": c.score}
      | spend,
    )


class Episodes:
  """Appends every scored rollout once.

  A process goes through all rollouts of its run, so it begins each file anew.
  """

  def __init__(self, workdir: pathlib.Path):
    self._folder = workdir / "episodes"
    self._begun: set[str] = set()

  def write(self, rollout: Rollout) -> None:
    """One line."""
    row = transcripts.episode_json(rollout.scored, 0) | {
      "prompts": fingerprint(rollout.prompts),
      "replicate": rollout.replicate,
      "score": rollout.score,
      "objectives": rollout.objectives,
    }
    self._folder.mkdir(parents=True, exist_ok=True)
    mode = "a" if rollout.split in self._begun else "w"
    self._begun.add(rollout.split)
    path = self._folder / f"{rollout.split}.jsonl"
    with open(path, mode, encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
