"""The files of candidates, over several processes of one run."""

from atlas_jax.config import PromptsConfig
from atlas_jax.online.search.journal import Candidate, Journal
from tests.online.whole_runs import read


def candidate(index: int, score: float) -> Candidate:
  prompts = PromptsConfig(student_probe=f"{index} {{question}}")
  return Candidate(index, (), index, prompts, score, {"a": score}, 1, 2, 3.0)


def test_a_resumed_run_does_not_throw_its_files_back(tmp_path):
  first = Journal(tmp_path)
  for index, score in enumerate((0.1, 0.5, 0.9)):
    first.candidates.append(candidate(index, score))
    first.write()
  names = ("candidates.json", "best_prompts.json")
  files = [(tmp_path / name).read_bytes() for name in names]
  again = Journal(tmp_path)
  for index, score in enumerate((0.1, 0.5, 0.9)):
    again.candidates.append(candidate(index, score))
    again.write()
    assert [(tmp_path / name).read_bytes() for name in names] == files
  again.candidates.append(candidate(3, 1.0))
  again.write()
  assert read(tmp_path / "best_prompts.json")["candidate"] == 3
  assert len(read(tmp_path / "candidates.json")) == 4


def test_a_search_that_ends_with_fewer_says_so(tmp_path):
  first = Journal(tmp_path, [candidate(0, 0.1), candidate(1, 0.5)])
  first.write()
  again = Journal(tmp_path, [candidate(0, 0.1)])
  again.write()
  assert read(tmp_path / "best_prompts.json")["candidate"] == 1
  again.write(all_known=True)
  assert read(tmp_path / "best_prompts.json")["candidate"] == 0
  assert len(read(tmp_path / "candidates.json")) == 1


def test_the_seed_alone_is_written(tmp_path):
  Journal(tmp_path, [candidate(0, 0.1)]).write()
  assert read(tmp_path / "best_prompts.json")["candidate"] == 0
  assert len(read(tmp_path / "candidates.json")) == 1
