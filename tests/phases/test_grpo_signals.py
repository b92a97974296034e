"""A signal in each part of a GRPO step: what is told of, what is saved."""

import contextlib
import logging
import os
import signal
import types

import pytest

from atlas_jax import multihost, stopping
from atlas_jax.config import GrpoConfig, RunConfig
from atlas_jax.phases import grpo
from atlas_jax.stopping import Stopped


class World:
  """A phase of 5 steps without arrays; a signal comes at `at` of step 3."""

  def __init__(self, at):
    self.at, self.now, self.log = at, 1, []
    self.config = RunConfig(grpo=GrpoConfig(steps=5, checkpoint_every=100))
    self.model, self.version = None, 0
    self.splits = types.SimpleNamespace(train=[])
    self.prompts = self.tokenizer = self.student_tokenizer = None
    self.done, self.saved = 0, None
    self.state = types.SimpleNamespace(model="weights")

  def signal(self, place):
    if (place, self.now) == (self.at, 3):
      os.kill(os.getpid(), signal.SIGTERM)

  # The run.

  def publish(self):
    multihost.call_on_lead(lambda: self.signal("publish"))
    return {"logprob_gap": 0.0}

  @contextlib.contextmanager
  def reporting(self, name, *, start, total):
    yield lambda step, *_: self.log.append(("told", step))

  # The rollouts.

  def next(self, step):
    self.now = step
    multihost.call_on_lead(lambda: self.signal("sample"))
    return [{"trained": False}], {"teacher_tokens_sum": 1}

  def sample_ahead(self, step):
    pass

  def wait(self):
    self.signal("train")

  # The trainer.

  def finish_step(self, step, rollouts):
    stopped = multihost.stop_asked()
    if stopped:
      self.save(step, rollouts)
      raise stopped

  def save(self, step, rollouts):
    self.log.append(("saved", step))


def replace_parts(monkeypatch, world):
  closing = contextlib.nullcontext
  monkeypatch.setattr(grpo, "AnswerChecker", lambda **_: closing())
  monkeypatch.setattr(
    grpo,
    "Rollouts",
    lambda *_: closing(
      types.SimpleNamespace(
        next=world.next,
        sample_ahead=world.sample_ahead,
        wait=world.wait,
        state=dict,
      )
    ),
  )


@pytest.mark.parametrize(
  ("at", "expected"),
  [
    ("sample", [("told", 1), ("told", 2), ("saved", 2)]),
    ("train", [("told", 1), ("told", 2), ("told", 3), ("saved", 3)]),
    ("publish", [("told", 1), ("told", 2), ("told", 3), ("saved", 3)]),
    ("never", [("told", n) for n in range(1, 6)]),
  ],
)
def test_a_signal_saves_the_last_step_that_is_whole(monkeypatch, at, expected):
  world = World(at)
  closing = contextlib.nullcontext
  replace_parts(monkeypatch, world)
  stopped = pytest.raises(Stopped) if at != "never" else closing()
  with stopped, stopping.listening():
    grpo._train(world, "1_grpo", world, 0)
  assert world.log == expected


def test_steps_without_a_spread_of_rewards_are_told_of(monkeypatch, caplog):
  world = World("never")
  cfg = GrpoConfig(steps=5, max_skipped_steps=2, problems_per_step=3)
  world.config = RunConfig(grpo=cfg)
  world.splits.train = ["a problem", "another"]
  flat = {1, 3, 4}
  world.next = lambda step: (
    [] if step in flat else [{"trained": False}],
    {"teacher_tokens_sum": 1},
  )
  replace_parts(monkeypatch, world)
  with caplog.at_level(logging.WARNING), stopping.listening():
    grpo._train(world, "1_grpo", world, 0)
  told = [r.getMessage() for r in caplog.records]
  assert sum("the last 2 steps had only groups" in text for text in told) == 1
  assert "there are 2 training problems" in caplog.text
  assert "config.grpo.problems_per_step=3" in caplog.text
