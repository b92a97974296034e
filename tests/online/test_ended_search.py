"""A run that goes on: its search, its files and its problems stay its own."""

import json
import re
import sqlite3

import pytest
from aiohttp import web

from atlas_jax.directory import RunError
from atlas_jax.online import optimize
from atlas_jax.online.rollouts import RolloutError
from tests.online import small_world
from tests.online.stub_server import StubServer
from tests.online.whole_runs import read, run, untimed


def down_on(first: int):
  """Nobody answers questions whose first number is `first` or above."""

  def answer(messages):
    asked = re.search(r"(\d+)\+\d+=", messages[-1]["content"])
    if asked and int(asked[1]) >= first:
      return web.Response(status=503)
    return small_world.answer(messages)

  return answer


def reflections(stub) -> int:
  prompts = [c.body["messages"][0]["content"] for c in stub.calls]
  return sum(p.startswith("You improve") for p in prompts)


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
  one, other = (
    untimed(read(d / "report" / "optimize.json")) for d in (whole, workdir)
  )
  if calls is not None:
    assert other["ended"].startswith("config.caps.calls leaves")
  assert one == other
  assert read(whole / "candidates.json") == read(workdir / "candidates.json")


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


def test_what_only_training_reads_may_change(finished):
  workdir, _ = finished
  url = read(workdir / "config.json")["student"]["url"]
  keys = {
    f"{role}__api_key_env": "ATLAS_TEST_KEY"
    for role in ("student", "teacher", "reflection_model")
  }
  run(workdir.parent, url, data__sft_source="episodes", **keys)
