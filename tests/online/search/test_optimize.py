"""Whole runs against a stub: found, planned, refused, kept secret."""

from types import SimpleNamespace

import pytest

from atlas_jax.config import PromptsConfig, default_config, resolve
from atlas_jax.data import splits
from atlas_jax.directory import RunError
from atlas_jax.online.calls.ledger import Amount, Caps, Ledger
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search.files import Candidate, Journal
from atlas_jax.online.search.reflection import prompt_chars
from atlas_jax.teaching.prompts import fingerprint, load_prompts
from tests.online import small_world
from tests.online.opened_run import opened
from tests.online.stub_server import StubServer
from tests.online.whole_runs import KEYS, episodes, holds_no_secret, read, run


def test_the_prompt_that_matters_is_found(finished):
  workdir, _ = finished
  facts = read(workdir / "report" / "optimize.json")
  assert facts["kept"] == 1 and facts["proven"]
  assert facts["accuracy_gain"]["estimate"] == 0.5
  assert facts["accuracy_gain"]["low"] > 0
  assert load_prompts(workdir / "best_prompts.json").teacher == (
    small_world.GOOD
  )
  candidates = read(workdir / "candidates.json")
  assert [c["parents"] for c in candidates] == [[], [0]]
  assert len(candidates[1]["scores"]) == 10
  right, wrong = (1.5 + 0.1 * 5 / 7) / 1.6, 0.5 / 1.6
  assert candidates[0]["score"] == pytest.approx((right + wrong) / 2)
  assert candidates[1]["score"] == pytest.approx(right)
  diff = (workdir / "report" / "prompts.diff").read_text()
  assert f"+{small_world.GOOD}" in diff.splitlines()
  for name in ("optimize.md", "optimize.json", "index.html"):
    assert (workdir / "report" / name).stat().st_size > 500


def test_every_call_is_in_the_costs(finished):
  workdir, calls = finished
  costs = read(workdir / "costs.json")
  assert sum(x["calls"] for x in costs) == calls
  assert sum(x["lost_calls"] for x in costs) == 0
  dollars = sum(
    x["prompt_tokens"] * 1e-6 + x["completion_tokens"] * 2e-6 for x in costs
  )
  assert sum(x["dollars"] for x in costs) == pytest.approx(dollars)


def test_no_file_holds_the_secret(finished):
  holds_no_secret(finished[0])


def test_another_config_is_refused_and_what_changes_nothing_is_not(finished):
  workdir, _ = finished
  url = read(workdir / "config.json")["student"]["url"]  # nobody is there now
  with pytest.raises(RunError, match=r"(?s)another config.*max_rounds"):
    run(workdir.parent, url, search__max_rounds=5, **KEYS)
  changes = {"caps__calls": 9999, "teacher__timeout_s": 1.0}
  # Only training reads it.
  changes |= {"data__sft_source": "episodes"}
  run(workdir.parent, url, **changes, **KEYS)


def test_the_loop_closes(finished):
  """online -> SFT, and the prompts go into training."""
  workdir, _ = finished
  tree = default_config()
  tree.data.source = "jsonl"
  tree.data.path = str(workdir.parent / "train.jsonl")
  tree.data.validation_path = str(workdir.parent / "validation.jsonl")
  tree.data.test_path = str(workdir.parent / "test.jsonl")
  tree.data.sft_source = "episodes"
  tree.data.sft_path = str(workdir / "episodes")
  tree.prompts_path = str(workdir / "best_prompts.json")
  config = resolve(tree)
  assert config.prompts.teacher == small_world.GOOD
  found = splits.load(config.data)
  examples = splits.load_sft(config.data, (*found.validation, *found.test))
  questions = {p.question for p in found.train}
  assert {e.fields["question"] for e in examples} <= questions
  assert "private <teaching>carry the one</teaching>" in {
    e.response for e in examples
  }
  # Every one of them was right after it.
  rows = episodes(workdir, "train")
  right = {
    r["question"]
    for r in rows
    if r["teachings"][0]["taught"]["status"] == "correct"
    and r["prompts"] == fingerprint(config.prompts)
  }
  assert {e.fields["question"] for e in examples} == right
  assert len(examples) == len(right) < len({r["question"] for r in rows})


def test_a_full_prompt_of_the_reflection_is_within_its_bound(tmp_path):
  with opened(tmp_path, "http://127.0.0.1:9") as r:
    c = r.config.reflection
    example = dict.fromkeys("abcde", "y" * c.max_example_chars)
    examples = [example] * r.config.sizes.minibatch
    asked = r.reflector.prompt("teacher", "x" * c.max_prompt_chars, examples)
    r.reflector.refused += 9 * [("teacher", "z" * 9999, "refused")]
    full = r.reflector.prompt("teacher", "x" * c.max_prompt_chars, examples)
    bound = prompt_chars(c, r.config.sizes.minibatch)
    assert len(asked) < len(full) <= bound < 1.3 * len(full)


def test_useless_proposals_end_the_search_and_keep_the_seed(tmp_path):
  def answer(messages):
    prompt = messages[-1]["content"]
    if prompt.startswith("You improve"):
      return "I would rather not."
    return small_world.answer(messages)

  with StubServer(answer) as stub:
    workdir = run(tmp_path, stub.url, reflection__max_failures=3)
  assert sum(p.startswith("You improve") for p in stub.asked) == 3
  facts = read(workdir / "report" / "optimize.json")
  assert facts["kept"] == 0 and "3 proposals" in facts["ended"]
  best = read(workdir / "best_prompts.json")
  assert best["prompts"] == small_world.SEED and best["stage"] == "chosen"


def test_the_live_line():
  spend = {"spent": Amount(1204, 10, 831 * 10**9), "lost": Amount(3)}
  caps = Caps(calls=2414, dollars=10.0, minutes=20.0)
  ledger = Ledger(caps, **spend, seconds=449.8, clock=lambda: 9.0)
  journal = Journal(None, None)
  journal.candidates += [SimpleNamespace(score=x) for x in (0.2, 0.7123, 0.5)]
  assert journal.line(ledger) == (
    "search | best 0.712 | 3 candidates | 1,204 calls | 3 lost | $0.83"
    " | 12:30 left | 50% of the caps"
  )


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
