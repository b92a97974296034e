"""The rollouts of a run as lines of training's episodes format.

  episodes/train.jsonl       of the rounds
  episodes/validation.jsonl  of accepted candidates, and fresh samples
  episodes/test.jsonl        of the test split

The lines (teaching/transcripts.py) name the candidate's templates by their
fingerprint; `data.sft_source=episodes` reads those of the templates that were
kept, without the test split.
"""

import json
import pathlib

from atlas_jax import directory, metrics
from atlas_jax.online.search.rollouts import Rollout
from atlas_jax.teaching import transcripts
from atlas_jax.teaching.prompts import fingerprint


class Episodes:
  """Appends every scored rollout once, also over resumed runs."""

  def __init__(self, workdir: pathlib.Path):
    self._folder = workdir / "episodes"
    self._written: dict[str, set[tuple]] = {}

  def _keys(self, split: str) -> set[tuple]:
    if split not in self._written:
      path = self._folder / f"{split}.jsonl"
      lines = metrics.read_jsonl(path)
      if path.exists():  # a kill may have cut the last line
        text = "".join(json.dumps(x) + "\n" for x in lines)
        directory.write_whole(path, text)
      self._written[split] = {
        (x["prompts"], x["id"], x["replicate"]) for x in lines
      }
    return self._written[split]

  def write(self, rollout: Rollout) -> None:
    """One line, unless it is there."""
    keys = self._keys(rollout.split)
    key = (
      fingerprint(rollout.prompts),
      rollout.problem.id,
      rollout.replicate,
    )
    if key in keys:
      return
    keys.add(key)
    row = transcripts.episode_json(rollout.scored, 0) | {
      "prompts": key[0],
      "replicate": rollout.replicate,
      "score": rollout.score,
      "objectives": rollout.objectives,
    }
    self._folder.mkdir(parents=True, exist_ok=True)
    path = self._folder / f"{rollout.split}.jsonl"
    with open(path, "a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
