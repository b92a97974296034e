"""Functions of the user's in the batches of GRPO and in an evaluation."""

import contextlib
import dataclasses
import json
import types

import pytest

from atlas_jax.config import DataConfig, PromptsConfig, RewardConfig, RunConfig
from atlas_jax.confined import Unanswered
from atlas_jax.data.problems import make_problem
from atlas_jax.phases import evaluate
from atlas_jax.phases.arms import Arm
from atlas_jax.phases.entry import PhaseEntry
from atlas_jax.phases.training_phase import TrainingError
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.episode import Attempt
from atlas_jax.teaching.prompts import Prompts
from tests.phases.small_grpo import World, solution

TEXT = """
def length(one):
  return one.teaching.taught.tokens


def fails(one):
  raise OSError(one.problem.answer)


def shares(question, gold, response):
  return 0.75 if gold in response else 0.25


def raises(question, gold, response):
  return 1 / 0
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(TEXT)
  return str(path)


@pytest.fixture
def checker():
  with AnswerChecker(data=DataConfig(own_processes=1)) as checker:
    yield checker


def problems(verifier="answer"):
  return [
    make_problem(f"{i}+0", str(i), verifier=verifier) for i in range(10, 16)
  ]


@pytest.fixture
def batch(tmp_path, file, checker, monkeypatch):
  """One step with terms of the reward: (numbers, lines of its episodes)."""

  def make(verifier="answer", **terms):
    given = problems(verifier)
    options = {"refill_rounds": 0, "steps": 1}
    world = World(tmp_path / "run", problems=given, **options)
    extra = {
      key: {"function": f"{file}:{name}", "weight": weight}
      for key, (name, weight) in terms.items()
    }
    config = dataclasses.replace(
      world.entry.config, reward=RewardConfig(extra=extra)
    )
    world.entry = PhaseEntry(config, tmp_path / "run", 1)
    world.entry.episodes.parent.mkdir(parents=True)
    world.train(monkeypatch, checker)
    text = world.entry.episodes.read_text()
    return world.numbers[1], [json.loads(x) for x in text.splitlines()]

  return make


def test_a_term_is_logged_as_the_other_parts_are(batch):
  numbers, lines = batch(long=("length", 0.5))
  assert numbers["reward_long"] == 1.5 and numbers["unjudged"] == 0
  parts = [t["reward_parts"]["long"] for x in lines for t in x["teachings"]]
  assert parts == [1.5] * 6


def test_shares_of_a_verifier_are_the_accuracy(batch, file):
  numbers, lines = batch(f"{file}:shares")
  # Alone never, guided one of two.
  assert numbers["accuracy_alone"] == 0.25
  assert numbers["accuracy_taught"] == 0.5
  # g * (1 - b), b = 1/4.
  assert numbers["reward_improvement"] == pytest.approx(0.5 * 0.75)
  assert {t["taught"]["score"] for t in lines[0]["teachings"]} == {0.25, 0.75}


@pytest.mark.parametrize("where", ["term", "verifier"])
def test_a_step_where_all_fail_ends_the_run(batch, file, where):
  with pytest.raises(TrainingError) as caught:
    if where == "term":
      batch(own=("fails", 1.0))
    else:
      batch(f"{file}:raises")
  line = {"term": f"{file}:7", "verifier": f"{file}:15"}[where]
  assert "step 1: no teaching has a reward" in str(caught.value)
  assert f"({line})" in str(caught.value)


def test_an_arm_without_a_verdict_ends_the_evaluation(tmp_path, file, checker):
  attempts = [
    Attempt(
      problem=p,
      sample=0,
      solution=solution("1"),
      teaching=None,
      teacher_text=None,
      probe=None,
      status=None,
      teaching_tokens=0,
      seconds=0.0,
    )
    for p in problems(f"{file}:raises")
  ]
  entry = PhaseEntry(RunConfig(phases=("evaluate",)), tmp_path / "run", 0)
  servers = types.SimpleNamespace(
    call=lambda work, hold: work(),
    roles=lambda: (None, None),
    serving=lambda *_: contextlib.nullcontext(),
    ask=lambda requests: requests.close() or attempts,
  )
  with pytest.raises(Unanswered) as caught:
    evaluate.sample(
      entry,
      Arm("student alone", Prompts(PromptsConfig())),
      problems(),
      {},
      servers=servers,
      checker=checker,
    )
  assert f"({file}:15)" in str(caught.value)
  # Nothing is kept: the next start judges again.
  assert not entry.episodes.exists()
