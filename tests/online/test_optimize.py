"""Whole runs against a stub: found, resumed, faulty, capped, kept secret."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from atlas_jax.config import default_config, resolve
from atlas_jax.data import splits
from atlas_jax.directory import RunError
from atlas_jax.online import live, optimize
from atlas_jax.online.best_prompts import load_prompts
from atlas_jax.online.replies import BudgetSpent
from atlas_jax.online.rollouts import Job
from atlas_jax.online.search import SearchFailed
from atlas_jax.online.spend import Amount, Snapshot
from launchers import common
from tests.online import small_world
from tests.online.stub_server import Faults, StubServer
from tests.online.test_rollouts import opened

SECRET = "sk-atlas-0123456789abcdef"


def run(folder, url, environ=None, **changes):
  """Runs to the end; the run directory."""
  config = small_world.config(folder, url, **changes)
  optimize.optimize(config, folder / "run", environ or {})
  return folder / "run"


def read(path):
  return json.loads(path.read_text(encoding="utf-8"))


def untimed(facts: dict) -> dict:
  """Without wall times, which no two runs share."""
  for arm in facts["evaluation"]["arms"]:
    del arm["seconds_per_problem"]
  return facts


def spent(workdir) -> dict:
  """role -> (calls, tokens, dollars) of calls that were answered."""
  return {
    x["role"]: (x["answered"], x["tokens"], x["dollars"])
    for x in read(workdir / "costs.json")
  }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run that nothing disturbed, with a key, and the calls that it made."""
  folder = tmp_path_factory.mktemp("finished")
  keys = {
    f"{role}__api_key_env": "ATLAS_TEST_KEY"
    for role in ("student", "teacher", "reflection_model")
  }
  with StubServer(small_world.answer, api_key=SECRET) as stub:
    environ = {"ATLAS_TEST_KEY": SECRET}
    workdir = run(folder, stub.url, environ, **keys)
    calls = len(stub.calls)
    # Finished: nothing is asked again.
    run(folder, stub.url, environ, **keys)
    assert len(stub.calls) == calls
  return workdir, calls


def test_the_prompt_that_matters_is_found(finished):
  workdir, _ = finished
  facts = read(workdir / "report" / "optimize.json")
  assert facts["kept"] == 1 and facts["proven"]
  assert facts["accuracy_gain"]["estimate"] == 0.5
  assert facts["accuracy_gain"]["low"] > 0
  assert load_prompts(workdir / "best_prompts.json").teacher_adaptive == (
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
  for name in ("optimize.md", "score_vs_spend.png", "alone_versus_taught.png"):
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
  workdir, _ = finished
  files = [p for p in workdir.rglob("*") if p.is_file()]
  assert len(files) > 10
  for path in files:
    assert SECRET.encode() not in path.read_bytes(), path
  assert "ATLAS_TEST_KEY" in (workdir / "config.json").read_text()


def test_another_config_is_refused_and_another_cap_is_not(finished):
  workdir, _ = finished
  url = read(workdir / "config.json")["student"]["url"]
  with pytest.raises(RunError, match="was written by another config"):
    run(workdir.parent, url, search__max_rounds=5)


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
  config = common.with_prompts(resolve(tree))
  assert config.prompts.teacher_adaptive == small_world.GOOD
  found = splits.load(config.data)
  examples = splits.load_sft(config.data, (*found.validation, *found.test))
  questions = {p.question for p in found.train}
  assert {e.fields["question"] for e in examples} <= questions
  assert "private <teaching>carry the one</teaching>" in {
    e.response for e in examples
  }
  # Every one of them was right after it.
  lines = (workdir / "episodes" / "train.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  right = [
    r for r in rows if r["teachings"][0]["guided"]["status"] == "correct"
  ]
  assert len(examples) == len(right) < len(rows)


def test_the_dry_run_says_what_an_evaluation_takes(tmp_path):
  with StubServer(small_world.answer) as stub:
    config = small_world.config(tmp_path, stub.url)
    text = optimize.plan(config, tmp_path / "run", {})
    assert not stub.calls and not (tmp_path / "run").exists()
    with opened(tmp_path, stub.url) as r:
      planned = r.budget.plan()
      seed = Job(r.config.prompts, r.budget.sets.validation, "validation")
      r.rollouts.evaluate([seed])
    assert len(stub.calls) == planned["seed on validation"].calls == 40
  # A round: baseline, probe and twice teaching and guided of 4 problems, the
  # child on 10, one reflection.
  assert planned["one round"].calls == 4 * 6 + 10 * 2 + 1
  rows = [line.split() for line in text.splitlines()]
  assert ["one", "round", "45"] in [row[:3] for row in rows]
  assert ["4", "rounds", "180"] in [row[:3] for row in rows]


def test_a_budget_without_a_round_is_refused_before_any_call(tmp_path):
  with StubServer(small_world.answer) as stub:
    # Seed 40, round 45, choosing 10 * (2 + 2 * 4), test 40 * (2 + 2 * 2).
    need = 40 + 45 + 100 + 240
    with pytest.raises(optimize.BudgetTooSmall, match=rf"they take {need}"):
      run(tmp_path, stub.url, caps__calls=need - 1)
    assert not stub.calls
    with pytest.raises(optimize.BudgetTooSmall, match=r"calls=424.*one round"):
      optimize.plan(
        small_world.config(tmp_path, stub.url, caps__calls=need - 1),
        tmp_path / "run",
        {},
      )
    workdir = run(tmp_path, stub.url, caps__calls=need)
    assert len(stub.calls) <= need
  ended = read(workdir / "report" / "optimize.json")["ended"]
  assert ended.startswith("config.caps.calls leaves")


def test_useless_proposals_end_the_search_and_keep_the_seed(tmp_path):
  def answer(messages):
    prompt = messages[-1]["content"]
    if prompt.startswith("You improve"):
      return "I would rather not."
    return small_world.answer(messages)

  with StubServer(answer) as stub:
    workdir = run(tmp_path, stub.url, reflection__max_failures=3)
    asked = [c.body["messages"][0]["content"] for c in stub.calls]
  assert sum(p.startswith("You improve") for p in asked) == 3
  facts = read(workdir / "report" / "optimize.json")
  assert facts["kept"] == 0 and "3 proposals" in facts["ended"]
  best = read(workdir / "best_prompts.json")
  assert best["prompts"] == small_world.SEED and best["stage"] == "chosen"


def test_a_dead_reflection_model_stops_the_run_with_a_reason(tmp_path):
  from aiohttp import web

  def answer(messages):
    if messages[-1]["content"].startswith("You improve"):
      return web.Response(status=503)
    return small_world.answer(messages)

  with StubServer(answer) as stub:
    with pytest.raises(SearchFailed, match=r"3 calls .* in a row"):
      run(
        tmp_path,
        stub.url,
        reflection__max_failures=3,
        reflection_model__retries=0,
      )
    before = len(stub.calls)
    # It is back: the run goes on, and asks nothing twice.
    stub.answer = small_world.answer
    workdir = run(
      tmp_path,
      stub.url,
      reflection__max_failures=3,
      reflection_model__retries=0,
    )
    bodies = [c.body for c in stub.calls]
  assert read(workdir / "report" / "optimize.json")["kept"] == 1
  again = [b for b in bodies[before:] if b in bodies[:before]]
  prompts = [b["messages"][0]["content"] for b in again]
  assert prompts and all(p.startswith("You improve") for p in prompts)


@pytest.mark.slow
def test_faults_change_nothing_but_the_spend(tmp_path, finished):
  workdir, calls = finished
  faults = Faults(seed=3, share=0.25)
  changes = {
    f"{role}__timeout_s": 3.0
    for role in ("student", "teacher", "reflection_model")
  }
  with StubServer(small_world.answer, faults=faults) as stub:
    faulty = run(tmp_path, stub.url, **changes)
    met = {c.fault for c in stub.calls} - {None}
    assert met == set(faults.kinds)
    asked = {json.dumps(c.body, sort_keys=True) for c in stub.calls}
    assert len(asked) == calls < len(stub.calls)
  one, other = (
    untimed(read(d / "report" / "optimize.json")) for d in (workdir, faulty)
  )
  assert one == other
  for a, b in zip(
    read(workdir / "candidates.json"),
    read(faulty / "candidates.json"),
    strict=True,
  ):
    for key in ("index", "parents", "round", "prompts", "score", "scores"):
      assert a[key] == b[key], key
  for split in ("train", "validation", "test"):
    lines = [
      (d / "episodes" / f"{split}.jsonl").read_text().count("\n")
      for d in (workdir, faulty)
    ]
    assert lines[0] == lines[1]


QUICK = ("429", "500", "null", "broken")


def test_retries_cannot_eat_what_is_set_aside(tmp_path):
  faults = Faults(seed=5, share=0.2, kinds=QUICK)
  with StubServer(small_world.answer, faults=faults) as stub:
    workdir = run(tmp_path, stub.url, caps__calls=440)
    assert len(stub.calls) <= 440
  facts = read(workdir / "report" / "optimize.json")
  assert facts["ended"].startswith("config.caps.calls leaves")
  assert facts["evaluation"]["problems"] == 40


@pytest.mark.slow
def test_a_cap_holds_to_the_call_and_a_higher_one_goes_on(tmp_path):
  faults = Faults(seed=5, share=0.6, kinds=QUICK, in_a_row=4)
  with StubServer(small_world.answer, faults=faults) as stub:
    # Retries take even what was set aside: it stops there, to the call.
    with pytest.raises(BudgetSpent, match="cap on calls"):
      run(tmp_path, stub.url, caps__calls=425)
    assert len(stub.calls) == 425
    workdir = run(tmp_path, stub.url, caps__calls=5000)
    asked = {json.dumps(c.body, sort_keys=True) for c in stub.calls}
  assert read(workdir / "report" / "optimize.json")["kept"] == 1
  assert (
    len({json.dumps(c.body, sort_keys=True) for c in stub.good})
    == len(stub.good)
    == len(asked)
  )


CONFIG = """
import os, pathlib
from tests.online import small_world

def get_config():
  out = small_world.tree(pathlib.Path(os.environ["FOLDER"]), os.environ["URL"])
  return out
"""


@pytest.mark.slow
def test_killed_at_three_places_it_equals_an_undisturbed_run(
  tmp_path, finished, repo_root
):
  undisturbed, calls = finished
  config = tmp_path / "config.py"
  config.write_text(CONFIG)
  workdir = tmp_path / "run"

  with StubServer(small_world.answer, latency_s=0.02) as stub:
    environ = {
      **os.environ,
      "FOLDER": str(tmp_path),
      "URL": stub.url,
      "PYTHONPATH": f"{repo_root}:{repo_root / 'third_party'}",
    }

    def start():
      return subprocess.Popen(
        [
          *(sys.executable, "-m", "launchers.optimize"),
          *(f"--config={config}", f"--workdir={workdir}"),
        ],
        cwd=repo_root,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )

    # While the seed is evaluated, in the rounds, on the test split.
    for at, how, status in (
      (20, signal.SIGKILL, -9),
      (70, signal.SIGINT, 130),
      (calls - 100, signal.SIGKILL, -9),
    ):
      process = start()
      while len(stub.calls) < at and process.poll() is None:
        time.sleep(0.002)
      process.send_signal(how)
      output, _ = process.communicate(timeout=120)
      assert process.returncode == status, output
    process = start()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "kept: candidate 1" in output
    made = len(stub.calls)
  assert read(workdir / "candidates.json") == read(
    undisturbed / "candidates.json"
  )
  facts = [
    untimed(read(d / "report" / "optimize.json"))
    for d in (workdir, undisturbed)
  ]
  assert facts[0] == facts[1]
  assert spent(workdir) == spent(undisturbed)
  # What was under way at a kill is asked again, and shown as lost.
  lost = sum(x["lost_calls"] for x in read(workdir / "costs.json"))
  assert calls <= made <= calls + lost
  assert 0 < lost <= 3 * 3 * 16
  for split in ("train", "validation", "test"):
    lines = [
      sorted(
        (x["prompts"], x["id"], x["replicate"], x["score"])
        for x in map(json.loads, path.read_text().splitlines())
      )
      for path in (
        d / "episodes" / f"{split}.jsonl" for d in (workdir, undisturbed)
      )
    ]
    assert lines[0] == lines[1]


def test_the_live_line():
  snapshot = Snapshot(
    calls=1204,
    tokens=10,
    dollars=0.831,
    unpriced_calls=0,
    lost=Amount(3, 0, 0),
    open_calls=0,
    seconds=1.0,
    seconds_left=750.2,
    shares={"calls": 0.5, "dollars": 0.083},
    lines=(),
  )
  assert live.line("search", 0.7123, 7, snapshot) == (
    "search | best 0.712 | 7 candidates | 1,204 calls | 3 lost | $0.83"
    " | 12:30 left | 50% of the caps"
  )
