"""What a run leaves: its files, and what it has decided for good.

candidates.json    the accepted ones in order, rewritten whole
best_prompts.json  the one with the best validation score so far, or, in the
                   end, the one that was chosen; see best_prompts.py
costs.json         of each role and model
episodes/train.jsonl       rollouts of the rounds
episodes/validation.jsonl  of accepted candidates, and fresh samples
episodes/test.jsonl        of the test split

Episodes are lines of training's format (teaching/transcripts.py), which name
the candidate's templates by their fingerprint; `data.sft_source=episodes` reads
those of the templates that were kept, without the test split. A process goes
through all rollouts of its run, so it begins each file of them anew.

Good replies and verdicts are kept by themselves. What else a search depends on,
above all the failures that it went on with, is committed to the record: a run
that starts again searches again from its seed, reads this, and asks nobody.
The keys are an evaluation and a verdict by their content, each call of the
reflection model, and those of search.py.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from atlas_jax import directory
from atlas_jax.config import PromptsConfig
from atlas_jax.errors import AtlasError
from atlas_jax.online.calls.ledger import Ledger
from atlas_jax.online.calls.record import Record
from atlas_jax.progress import duration

# What a candidate and a plan say of the caps.
SPEND = ("calls", "tokens", "dollars")


class SearchOver(AtlasError):
  """The search ends, with what it has; the text says why."""


def key_of(kind: str, *parts) -> str:
  """The name under which something of these parts, values of JSON, is kept."""
  text = json.dumps(parts)
  return f"{kind} {hashlib.sha256(text.encode()).hexdigest()}"


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
  """Keeps candidates and decisions, and writes files to the run directory.

  ended: why the search is over, while it is replayed: then nothing new may be
  asked.
  """

  workdir: pathlib.Path
  record: Record
  candidates: list[Candidate] = field(default_factory=list)
  stage: str = "search"
  ended: str | None = None
  _begun: set[str] = field(default_factory=set)  # files of episodes

  def read(self, key: str):
    """What was committed under `key`; None: nothing yet.

    Raises:
      SearchOver: nothing, and the search has ended.
    """
    value = self.record.read(key)
    if value is None and self.ended is not None:
      raise SearchOver(self.ended)
    return value

  def line(self, ledger: Ledger) -> str:
    """How the run stands, with the spend of all its processes:

    search | best 0.712 | 7 candidates | 1,204 calls | $0.83 | 12:30 left
    """
    scores = [c.score for c in self.candidates]
    left, share = ledger.seconds_left, ledger.share()
    unpriced = ledger.spent.unpriced
    money = f"${ledger.spent.dollars:,.2f}"
    parts = [
      self.stage,
      scores and f"best {max(scores):.3f}",
      f"{len(scores)} candidate{'s' * (len(scores) != 1)}",
      f"{ledger.spent.calls:,} calls",
      ledger.lost.calls and f"{ledger.lost.calls:,} lost",
      f"{money} and {unpriced:,} calls unpriced" if unpriced else money,
      left is not None and f"{duration(left)} left",
      share is not None and f"{share:.0%} of the caps",
    ]
    return " | ".join(part for part in parts if part)

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
    c = candidate
    row = {"prompts": asdict(c.prompts), "candidate": c.index}
    row |= {"stage": self.stage, **facts, "score": c.score}
    row |= {name: getattr(c, name) for name in SPEND}
    directory.write_json(self.workdir / "best_prompts.json", row)

  def write_episode(self, split: str, episode: Mapping) -> None:
    """Appends one line to the episodes of a split."""
    path = self.workdir / "episodes" / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "a" if split in self._begun else "w"
    self._begun.add(split)
    with open(path, mode, encoding="utf-8") as file:
      file.write(json.dumps(episode) + "\n")
