"""A signal in each part of a GRPO step: what is logged, what is saved."""

import contextlib
import logging
import os
import signal

import pytest

from atlas_jax.stopping import Stopped
from atlas_jax.teaching.answers import AnswerChecker
from tests.phases.small_grpo import FLAT, PROBLEMS, World


@pytest.fixture(scope="module")
def checker():
  with AnswerChecker() as checker:
    yield checker


@pytest.fixture
def world(tmp_path):
  def make(**options):
    (tmp_path / "episodes").mkdir()
    return World(tmp_path, steps=5, **options)

  return make


@pytest.mark.parametrize(
  ("at", "expected"),
  [
    ("sampling", [("logged", 1), ("logged", 2), ("saved", 2)]),
    ("training", [("logged", 1), ("logged", 2), ("logged", 3), ("saved", 3)]),
    ("publishing", [("logged", 1), ("logged", 2), ("logged", 3), ("saved", 3)]),
    ("never", [("logged", n) for n in range(1, 6)]),
  ],
)
def test_a_signal_saves_the_last_step_that_is_whole(
  monkeypatch, world, checker, at, expected
):
  world = world(problems=[p for p in PROBLEMS if p.id not in FLAT])
  # The weights of step 3 are published when the version is 3 already.
  step = 4 if at == "publishing" else 3
  world.at[at, step] = lambda: os.kill(os.getpid(), signal.SIGTERM)
  ends = pytest.raises(Stopped) if at != "never" else contextlib.nullcontext()
  with ends:
    world.train(monkeypatch, checker)
  assert world.log == expected


@pytest.mark.parametrize("place", ["publishing", "validating"])
def test_a_step_is_not_saved_before_it_is_validated(
  monkeypatch, world, checker, place
):
  world = world(evaluate_every=3, checkpoint_every=1, keep_best=True)
  world.at[place, 4] = lambda: os.kill(os.getpid(), signal.SIGTERM)
  with pytest.raises(Stopped):
    world.train(monkeypatch, checker)
  assert world.log[-3:] == [("best", 3), ("logged", 3), ("saved", 3)]
  looked = [n for n, x in world.numbers.items() if "validation" in str(x)]
  assert looked == [3]


def test_steps_without_a_spread_of_rewards_are_warned_of(
  monkeypatch, world, checker, caplog
):
  flat = [p for p in PROBLEMS if p.id in FLAT]
  world = world(
    problems=flat[:2],
    **{"max_skipped_steps": 2, "problems_per_step": 3, "refill_rounds": 0},
  )
  with caplog.at_level(logging.WARNING):
    world.train(monkeypatch, checker)
  said = [r.getMessage() for r in caplog.records]
  assert sum("the last 2 steps had only groups" in text for text in said) == 1
  assert sum("the last 4 steps had only groups" in text for text in said) == 1
  assert "there are 2 training problems" in caplog.text
  assert "config.grpo.problems_per_step=3" in caplog.text
