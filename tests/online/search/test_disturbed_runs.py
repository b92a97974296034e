"""Faults, caps and kills: the end is that of an undisturbed run."""

import dataclasses
import json
import os
import signal
import subprocess
import time

import pytest

from atlas_jax.online.calls.ledger import BudgetSpent
from tests import forked
from tests.online import small_world
from tests.online.stub_server import Faults, StubServer
from tests.online.whole_runs import episodes, facts_of, read, run, spent


@pytest.mark.slow
@pytest.mark.usefixtures("short_waits")
def test_faults_change_nothing_but_the_spend(tmp_path, finished):
  workdir, calls = finished
  faults = Faults(seed=3, share=0.25)
  changes = {
    f"{role}__timeout_s": 1.5
    for role in ("student", "teacher", "reflection_model")
  }
  with StubServer(small_world.answer, faults=faults) as stub:
    faulty = run(tmp_path, stub.url, **changes)
    met = {c.fault for c in stub.calls} - {None}
    assert met == set(faults.kinds)
    asked = {json.dumps(c.body, sort_keys=True) for c in stub.calls}
    assert len(asked) == calls < len(stub.calls)
  assert facts_of(workdir) == facts_of(faulty)
  for a, b in zip(
    read(workdir / "candidates.json"),
    read(faulty / "candidates.json"),
    strict=True,
  ):
    for key in ("index", "parents", "round", "prompts", "score", "scores"):
      assert a[key] == b[key], key
  for split in ("train", "validation", "test"):
    one, other = (episodes(d, split) for d in (workdir, faulty))
    assert len(one) == len(other)


QUICK = ("429", "500", "null", "broken")


@pytest.mark.usefixtures("short_waits")
def test_retries_cannot_eat_what_is_set_aside(tmp_path):
  faults = Faults(seed=5, share=0.2, kinds=QUICK)
  with StubServer(small_world.answer, faults=faults) as stub:
    workdir = run(tmp_path, stub.url, caps__calls=440)
    assert len(stub.calls) <= 440
  facts = read(workdir / "report" / "optimize.json")
  assert facts["ended"].startswith("config.caps.calls leaves")
  assert facts["evaluation"]["problems"] == 40


@pytest.mark.slow
@pytest.mark.usefixtures("short_waits")
def test_a_cap_holds_to_the_call_and_a_higher_one_finishes(tmp_path):
  faults = Faults(seed=5, share=0.6, kinds=QUICK, in_a_row=4)
  with StubServer(small_world.answer, faults=faults) as stub:
    # Retries take even what was set aside: it stops there, to the call.
    with pytest.raises(BudgetSpent, match="cap on calls"):
      run(tmp_path, stub.url, caps__calls=425)
    assert len(stub.calls) == 425
    workdir = run(tmp_path, stub.url, caps__calls=5000)
    asked = {json.dumps(c.body, sort_keys=True) for c in stub.calls}
  # The search ended under the first cap, and has no use for the second.
  facts = read(workdir / "report" / "optimize.json")
  assert "config.caps.calls=5000" not in facts["ended"]
  assert "config.caps.calls leaves" in facts["ended"]
  assert facts["evaluation"]["problems"] == 40
  assert (
    len({json.dumps(c.body, sort_keys=True) for c in stub.good})
    == len(stub.good)
    == len(asked)
  )


# Calls of an undisturbed run: its parts, as they come.
SEED, CHOOSING, TEST = 40, 60, 240


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a run is stopped, by the calls that it has made, and how it ends.

  best: the candidate that best_prompts.json then holds; None: no file.
  """

  calls: int
  signal: signal.Signals
  status: int
  best: int | None


def places(calls: int) -> dict[str, Place]:
  """In the order of a run that makes so many calls."""
  kill, interrupt = signal.SIGKILL, signal.SIGINT
  return {
    "evaluating the seed": Place(SEED // 2, kill, -9, None),
    "in the first round": Place(SEED + 30, interrupt, 130, 0),
    "in the next round": Place(SEED + 50, kill, -9, 0),
    "choosing": Place(calls - TEST - CHOOSING // 2, kill, -9, 1),
    "on the test split": Place(calls - 100, kill, -9, 1),
  }


CONFIG = """
import os, pathlib
from tests.online import small_world

def get_config():
  out = small_world.tree(pathlib.Path(os.environ["FOLDER"]), os.environ["URL"])
  return out
"""


@pytest.mark.slow
def test_killed_at_every_stage_it_equals_an_undisturbed_run(tmp_path, finished):
  undisturbed, calls = finished
  config = tmp_path / "config.py"
  config.write_text(CONFIG)
  workdir = tmp_path / "run"

  with StubServer(small_world.answer, latency_s=0.02) as stub:
    environ = {**os.environ, "FOLDER": str(tmp_path), "URL": stub.url}

    def start():
      return forked.Process(
        "launchers.optimize",
        *(f"--config={config}", f"--workdir={workdir}"),
        *("--config.caps.calls=2000", "--config.caps.minutes=30.0"),
        env=environ,
        stderr=subprocess.STDOUT,
      )

    def asked():
      return len({json.dumps(c.body, sort_keys=True) for c in stub.calls[:]})

    for name, place in places(calls).items():
      process = start()
      while asked() < place.calls and process.poll() is None:
        time.sleep(0.005)
      process.send_signal(place.signal)
      output, _ = process.communicate(timeout=120)
      assert process.returncode == place.status, (name, output)
      if place.best is not None:
        best = read(workdir / "best_prompts.json")["candidate"]
        assert best == place.best, name
        costs = read(workdir / "costs.json")
        assert sum(x["calls"] for x in costs) >= SEED
    process = start()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "The prompts of candidate 1 are kept" in output
    made = len(stub.calls)
  assert read(workdir / "candidates.json") == read(
    undisturbed / "candidates.json"
  )
  assert facts_of(workdir) == facts_of(undisturbed)
  assert spent(workdir) == spent(undisturbed)
  # What was under way at a kill is asked again, and shown as lost.
  lost = sum(x["lost_calls"] for x in read(workdir / "costs.json"))
  assert calls <= made <= calls + lost
  assert 0 < lost <= 5 * 3 * 16
  for split in ("train", "validation", "test"):
    one, other = (
      sorted(
        (x["prompts"], x["id"], x["replicate"], x["score"])
        for x in episodes(d, split)
      )
      for d in (workdir, undisturbed)
    )
    assert one == other
