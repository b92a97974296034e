"""A run that goes on: its search, its files and its problems stay its own."""

import json
import re
import sqlite3

import pytest
from aiohttp import web

from atlas_jax import metrics
from atlas_jax.data.problems import make_problem
from atlas_jax.data.splits import Splits
from atlas_jax.directory import RunError
from atlas_jax.online.calls.record import Record
from atlas_jax.online.search import optimize
from atlas_jax.online.search.reflection import SearchFailed
from atlas_jax.online.search.rollouts import RolloutError
from tests import forked
from tests.online import small_world
from tests.online.agents.serving import Serving
from tests.online.stub_server import StubServer
from tests.online.whole_runs import SECRET, facts_of, holds_no_secret, read, run


def down_on(first: int):
  """Nobody answers questions whose first number is `first` or above."""

  def answer(messages):
    asked = re.search(r"(\d+)\+\d+=", messages[-1]["content"])
    if asked and int(asked[1]) >= first:
      return web.Response(status=503)
    return small_world.answer(messages)

  return answer


def reflections(stub) -> int:
  return sum(p.startswith("You improve") for p in stub.asked)


QUICK = {"student__retries": 0, "teacher__retries": 0}


@pytest.mark.parametrize("calls", [None, 470])
def test_the_search_that_ended_is_replayed_and_not_longer(tmp_path, calls):
  (tmp_path / "other").mkdir()
  with StubServer(small_world.answer) as stub:
    whole = run(tmp_path / "other", stub.url, caps__calls=calls)
    asked = reflections(stub)
  with StubServer(down_on(3000)) as stub:
    with pytest.raises(RolloutError, match="got no answer"):
      run(tmp_path, stub.url, caps__calls=calls, caps__minutes=60.0, **QUICK)
    assert reflections(stub) == asked
    # The part of the minutes that the search may take is over by now.
    with sqlite3.connect(tmp_path / "run" / "record.sqlite") as db:
      db.execute("UPDATE processes SET seconds = 50 * 60")
    stub.answer = small_world.answer
    workdir = run(
      tmp_path, stub.url, caps__calls=5000, caps__minutes=60.0, **QUICK
    )
    assert reflections(stub) == asked
  one, other = facts_of(whole), facts_of(workdir)
  if calls is not None:
    assert other["ended"].startswith("config.caps.calls leaves")
  assert one == other
  assert read(whole / "candidates.json") == read(workdir / "candidates.json")


def test_a_kill_at_the_end_of_the_search_begins_no_other_round(
  tmp_path, monkeypatch
):
  ends, commit = [], Record.commit

  def killed_at_the_end(record, key, value):
    if key == "ended" and not ends:
      ends.append(value)
      raise KeyboardInterrupt
    commit(record, key, value)

  monkeypatch.setattr(Record, "commit", killed_at_the_end)
  with StubServer(small_world.answer) as stub:
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path, stub.url, caps__calls=440)
    asked = reflections(stub)
    workdir = run(tmp_path, stub.url, caps__calls=440)
    assert reflections(stub) == asked
  ended = read(workdir / "report" / "optimize.json")["ended"]
  assert [ended] == ends and "config.caps.calls leaves" in ended


def test_problems_that_changed_are_refused(tmp_path):
  with StubServer(down_on(3000)) as stub:
    with pytest.raises(RolloutError):
      run(tmp_path, stub.url, **QUICK)
    path = tmp_path / "validation.jsonl"
    before = len(stub.calls)
    config = small_world.config(tmp_path, stub.url, **QUICK)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["answer"] = "7"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunError, match=r"began with \(in validation\)"):
      optimize.optimize(config, tmp_path / "run", {})
    assert len(stub.calls) == before


@pytest.mark.parametrize(
  "changed",
  [
    {"question": "1 +  1"},  # of the same words: the same id
    {"verifier": "reasoning_gym"},
    {"meta": {"kind": "b", "entry": {1, 2}}},
  ],
)
def test_all_of_a_problem_must_be_as_it_was(tmp_path, changed):
  facts = {"question": "1 + 1", "answer": "2", "meta": {"kind": "a"}}
  before, after = make_problem(**facts), make_problem(**facts | changed)
  assert before.id == after.id
  sets = Splits([before], [], [])
  with Record() as record:
    for _ in range(2):
      optimize._check_problems(sets, record, tmp_path)
    with pytest.raises(RunError, match=r"began with \(in train\)"):
      optimize._check_problems(Splits([after], [], []), record, tmp_path)


@pytest.mark.parametrize(
  "reply", [lambda: {"content": None}, lambda: web.Response(status=503)]
)
def test_a_reflection_model_without_words_stops_a_run_and_not_for_good(
  tmp_path, reply
):
  def silent(messages):
    if messages[-1]["content"].startswith("You improve"):
      return reply()
    return small_world.answer(messages)

  changes = {"reflection_model__retries": 0, "reflection__attempts": 1}
  with StubServer(silent) as stub:
    # One a round: the streak goes over rounds, whose evaluations pass.
    with pytest.raises(SearchFailed, match="3 calls of the reflection model"):
      run(tmp_path, stub.url, reflection__max_failures=3, **changes)
    before = len(stub.calls)
    with pytest.raises(SearchFailed, match="3 calls of the reflection model"):
      run(tmp_path, stub.url, reflection__max_failures=3, **changes)
    assert len(stub.calls) == before + 3
    stub.answer = small_world.answer
    workdir = run(tmp_path, stub.url, reflection__max_failures=3, **changes)
  assert (workdir / "report" / "optimize.json").exists()


@pytest.mark.usefixtures("short_waits")
def test_no_file_holds_the_secret_of_an_agent(tmp_path):
  """Its server repeats what it was sent, in a failure that passes by."""

  def answer(seen):
    assert seen.headers["X-Key"] == f"key {SECRET}"
    prompt = seen.json["q"]
    if len(agent.seen) % 5 == 1:
      text = f"busy with {seen.headers['X-Key']}"
      return web.Response(status=503, text=text)
    return {"said": small_world.student(prompt)}

  agent_config = {
    "agent__kind": "http",
    "agent__retries": 8,
    "agent__http__headers": {"X-Key": "key ${ATLAS_TEST_KEY}"},
    "agent__http__body": {"q": "{prompt}"},
    "agent__http__answer": "said",
  }
  with StubServer(small_world.answer) as stub, Serving(answer) as agent:
    workdir = run(
      tmp_path,
      stub.url,
      {"ATLAS_TEST_KEY": SECRET},
      agent__http__url=agent.url,
      **agent_config,
    )
  assert read(workdir / "report" / "optimize.json")["kept"] == 1
  holds_no_secret(workdir)


@pytest.mark.slow
def test_the_episodes_warm_up_a_teacher(finished, tmp_path, road_model):
  """online -> SFT, in earnest: two steps of a tiny model."""
  workdir, _ = finished
  folder = workdir.parent
  flags = {
    "phases": "('sft',)",
    "teacher.path": road_model,
    "student.path": road_model,
    "data.source": "jsonl",
    "data.path": folder / "train.jsonl",
    "data.validation_path": folder / "validation.jsonl",
    "data.test_path": folder / "test.jsonl",
    "data.sft_source": "episodes",
    "data.sft_path": workdir / "episodes",
    "prompts_path": workdir / "best_prompts.json",
    "sft.steps": 2,
    "sft.batch_rows": 2,
    "sft.checkpoint_every": 2,
    "sft.optimizer.warmup_steps": 1,
  }
  done = forked.run(
    "launchers.train",
    *("--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}"),
    *(f"--config.{key}={value}" for key, value in flags.items()),
  )
  assert done.returncode == 0, done.stderr[-4000:]
  lines = list(metrics.lines(tmp_path / "run" / "metrics.jsonl"))
  losses = [x["0_sft/loss"] for x in lines if "0_sft/loss" in x]
  assert len(losses) == 2 and losses[1] < losses[0]
  config = read(tmp_path / "run" / "config.json")
  assert config["prompts"]["teacher"] == small_world.GOOD
  assert (tmp_path / "run" / "checkpoints" / "0_sft").is_dir()
