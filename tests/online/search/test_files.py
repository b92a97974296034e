"""The files of a search."""

import json

from atlas_jax.config import PromptsConfig
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search.files import Candidate, Journal
from atlas_jax.online.search.rollouts import trial
from tests.online import small_world
from tests.online.opened_run import opened
from tests.online.stub_server import StubServer
from tests.online.whole_runs import read


def candidate(index: int, score: float) -> Candidate:
  prompts = PromptsConfig(student_probe=f"{index} {{question}}")
  return Candidate(index, (), index, prompts, score, {"a": score}, 1, 2, 3.0)


def test_the_best_so_far_is_written(tmp_path):
  journal = Journal(tmp_path, Record())
  for index, score in enumerate((0.1, 0.5, 0.5, 0.2)):
    journal.candidates.append(candidate(index, score))
    journal.write()
    assert len(read(tmp_path / "candidates.json")) == index + 1
  best = read(tmp_path / "best_prompts.json")
  # Of equals the earlier.
  assert (best["candidate"], best["stage"]) == (1, "search")
  assert [c.index for c in journal.best(3)] == [1, 2, 3]


def test_another_process_begins_the_episodes_anew(tmp_path):
  path = tmp_path / "run" / "episodes" / "train.jsonl"

  def evaluate():
    with opened(tmp_path, stub.url, path=tmp_path / "record.sqlite") as run:
      job = trial(run.config.prompts, run.sets.train[:2], "train")
      (made,) = run.rollouts.evaluate([job])
    return [r.score for r in made]

  with StubServer(small_world.answer) as stub:
    scores, before = evaluate(), path.read_text()
    path.write_text(before + before[: len(before) // 3])  # killed there
    assert evaluate() == scores and path.read_text() == before
  rows = [json.loads(line) for line in before.splitlines()]
  assert [row["score"] for row in rows] == scores
