"""The rollouts of a run as lines of training's episodes format.

  episodes/train.jsonl       of the rounds
  episodes/validation.jsonl  of accepted candidates, and fresh samples
  episodes/test.jsonl        of the test split

`data.sft_source=episodes` reads them (teaching/transcripts.py); the lines say
the candidate's templates beside it by their fingerprint.
"""

import hashlib
import json
import pathlib
from dataclasses import astuple

from atlas_jax import metrics
from atlas_jax.config import PromptsConfig
from atlas_jax.online.rollouts import Rollout
from atlas_jax.teaching import transcripts


def fingerprint(prompts: PromptsConfig) -> str:
  """Names a set of templates."""
  text = json.dumps(astuple(prompts))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


class Episodes:
  """Appends every scored rollout once, also over resumed runs."""

  def __init__(self, workdir: pathlib.Path):
    self._folder = workdir / "episodes"
    self._written: dict[str, set[tuple]] = {}

  def _keys(self, split: str) -> set[tuple]:
    if split not in self._written:
      path = self._folder / f"{split}.jsonl"
      lines = metrics.read_jsonl(path)
      if path.exists() and not path.read_bytes().endswith(b"\n"):
        # A kill cut the last line.
        text = "".join(json.dumps(x) + "\n" for x in lines)
        path.write_text(text, encoding="utf-8")
      self._written[split] = {
        (x["prompts"], x["id"], x["replicate"]) for x in lines
      }
    return self._written[split]

  def write(self, rollout: Rollout) -> None:
    """One line, unless it is there."""
    keys = self._keys(rollout.split)
    key = (fingerprint(rollout.prompts), rollout.problem.id, rollout.replicate)
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
