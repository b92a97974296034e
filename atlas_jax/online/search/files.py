"""The files of a search: its candidates and its episodes.

candidates.json    the accepted ones in order, rewritten whole
best_prompts.json  the one with the best validation score so far, or, in the
                   end, the one that was chosen; see best_prompts.py
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

from atlas_jax import directory, files, metrics
from atlas_jax.config import PromptsConfig
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
  """Keeps candidates, and writes them to the run directory."""

  workdir: pathlib.Path
  candidates: list[Candidate] = field(default_factory=list)

  def __post_init__(self):
    self._path = self.workdir / "candidates.json"
    # Of an earlier process, which a resumed run finds one after the other.
    self._written = 0
    if self._path.exists():
      self._written = len(files.parse(files.read(self._path), self._path))

  def best(self, n: int) -> list[Candidate]:
    """The n best on validation; of equals the earlier."""
    ranked = sorted(self.candidates, key=lambda c: (-c.score, c.index))
    return ranked[:n]

  def write(self, *, all_known: bool = False) -> None:
    """Writes both files, unless they hold as many candidates or more.

    all_known: the search has ended, so more of them are none of its own.
    """
    known = len(self.candidates)
    if known == self._written or (known < self._written and not all_known):
      return
    self._written = known
    directory.write_json(self._path, [asdict(c) for c in self.candidates])
    (best,) = self.best(1)
    self.write_best(best, stage="search")

  def write_best(self, candidate: Candidate, **facts) -> None:
    """best_prompts.json: the templates, and facts about them."""
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
  """Appends every scored rollout once, also over resumed runs."""

  def __init__(self, workdir: pathlib.Path):
    self._folder = workdir / "episodes"
    self._written: dict[str, set[tuple]] = {}

  def _keys(self, path: pathlib.Path) -> set[tuple]:
    if path.name not in self._written:
      lines = metrics.read_jsonl(path)
      if path.exists():  # a kill may have cut the last line
        text = "".join(json.dumps(x) + "\n" for x in lines)
        directory.write_whole(path, text)
      self._written[path.name] = {
        (x["prompts"], x["id"], x["replicate"]) for x in lines
      }
    return self._written[path.name]

  def write(self, rollout: Rollout) -> None:
    """One line, unless it is there."""
    path = self._folder / f"{rollout.split}.jsonl"
    prompts, keys = fingerprint(rollout.prompts), self._keys(path)
    key = (prompts, rollout.problem.id, rollout.replicate)
    if key in keys:
      return
    keys.add(key)
    row = transcripts.episode_json(rollout.scored, 0) | {
      "prompts": prompts,
      "replicate": rollout.replicate,
      "score": rollout.score,
      "objectives": rollout.objectives,
    }
    self._folder.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
