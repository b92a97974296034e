"""Batches in order, ahead of time, filled up and resumed, without servers."""

import asyncio
import dataclasses
import json

import pytest

from atlas_jax.config import EpisodeConfig, GrpoConfig, RunConfig
from atlas_jax.data.problems import make_problem
from atlas_jax.phases import rollouts as rollouts_lib
from atlas_jax.phases.rollouts import RolloutError, Rollouts
from atlas_jax.serving.client import Completion, ServerDown
from atlas_jax.stopping import Stopped
from atlas_jax.teaching.answers import AnswerChecker
from atlas_jax.teaching.protocol import Teaching, TeachingEpisode
from atlas_jax.teaching.speakers import Said

PROBLEMS = [make_problem(f"{i}+0", str(i)) for i in range(20)]
# Their teachings are all alike.
FLAT = {p.id for p in PROBLEMS[:8]}


def solution(text):
  return Said(f"<solution>{text}</solution>", 3, "stop")


class FakeRun:
  """What Rollouts needs of a Run; every request goes to `episode`."""

  def __init__(self, workdir, **grpo):
    options = {"problems_per_step": 3, "group_size": 2, "steps": 6}
    options |= {"row_length": 64, **grpo}
    self.config = RunConfig(
      grpo=GrpoConfig(**options),
      episode=EpisodeConfig(max_teaching_tokens=8),
    )
    self.workdir = workdir
    self.servers = self
    self.prompts = None
    self.version = 0
    self.fail = 0  # so many calls from now on
    self.calls = []

  def roles(self):
    return self.version, None

  def ask(self, work):
    return asyncio.run(work)

  def with_servers(self, work):
    while True:
      try:
        return work()
      except ServerDown:
        continue

  def episode(self, problem, version):
    answers = [problem.answer, problem.answer if problem.id in FLAT else "no"]
    sample = Completion("t", (5, 6), (-0.5, -0.25), "stop", version)
    return TeachingEpisode(
      problem=problem,
      baseline=(solution("none"),),
      probe="so",
      teachings=tuple(
        Teaching(
          Said("t", 2, "stop", prompt_ids=(1, 2), sample=sample),
          "t",
          "ok",
          1,
          solution(answer),
        )
        for answer in answers
      ),
      seconds={},
    )


@pytest.fixture
def make(monkeypatch, tmp_path):
  with AnswerChecker() as checker:

    def rollouts(saved=None, done=0, name="run", **grpo):
      run = FakeRun(tmp_path / name, **grpo)
      run.version = done

      async def run_episodes(problems, *, teacher, step, refill, **_):
        run.calls.append((step, refill, [p.id for p in problems]))
        if run.fail:
          run.fail -= 1
          raise ServerDown("gone")
        return [run.episode(p, teacher) for p in problems]

      monkeypatch.setattr(rollouts_lib, "run_episodes", run_episodes)
      return run, Rollouts(run, PROBLEMS, "1_grpo", checker, done, saved)

    yield rollouts


def step(run, batches, number):
  """What the loop of the phase does with a batch."""
  kept, numbers = batches.next(number)
  batches.sample_ahead(number + 1)
  batches.wait()
  run.version = number
  return kept, numbers


def written(run):
  path = run.workdir / "episodes" / "1_grpo.jsonl"
  return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_on_policy_batches_are_sampled_with_the_newest_weights(make):
  run, batches = make(refill_rounds=0)
  with batches:
    for number in range(1, 5):
      kept, numbers = step(run, batches, number)
      assert {r["version"] for r in kept} <= {number - 1}
      assert numbers["staleness_mean"] == 0
  # No problem comes twice in a pass, none is left out.
  assert len(set(written(run))) == 12


@pytest.mark.parametrize("staleness", [1, 2])
def test_ahead_a_batch_is_as_old_as_allowed(make, staleness):
  run, batches = make(max_staleness=staleness, refill_rounds=0)
  with batches:
    for number in range(1, 7):
      _, numbers = step(run, batches, number)
      if numbers["zero_variance_groups"] < 3:
        expected = min(number - 1, staleness)
        assert numbers["staleness_mean"] == expected
      assert numbers["stale_dropped"] == 0
  # Nothing is sampled beyond the last step.
  assert [call[0] for call in run.calls] == [1, 2, 3, 4, 5, 6]


def test_rollouts_that_are_too_old_are_dropped_and_counted(make):
  run, batches = make(refill_rounds=0)
  with batches:
    run.version = 1
    run.roles = lambda: (0, None)  # a server that missed an update
    kept, numbers = batches.next(1)
  trainable = 2 * (3 - numbers["zero_variance_groups"])
  assert kept == []
  assert numbers["stale_dropped"] == trainable > 0
  assert numbers["staleness_mean"] == 1


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_restored_phase_goes_on_with_the_same_batches(make, staleness):
  run, batches = make(name="whole", max_staleness=staleness)
  with batches:
    expected = []
    for number in range(1, 7):
      expected.append(step(run, batches, number)[0])
      if number == 3:
        saved = json.loads(json.dumps(batches.state()))
  again, batches = make(
    name="restored", saved=saved, done=3, max_staleness=staleness
  )
  assert len(saved["ahead"]) == staleness
  with batches:
    for number in range(4, 7):
      kept = step(again, batches, number)[0]
      assert json.dumps(kept) == json.dumps(expected[number - 1])
  assert written(again) == written(run)[-len(written(again)) :]


def test_flat_groups_are_replaced_by_the_next_problems(make):
  run, batches = make(refill_rounds=2)
  with batches:
    _, numbers = batches.next(1)
  first, *more = run.calls
  flat = [sum(i in FLAT for i in ids) for _, _, ids in run.calls]
  for call, wanted in zip(more, flat, strict=False):
    assert len(call[2]) == wanted
  assert [c[1] for c in run.calls] == list(range(len(run.calls)))
  assert len(run.calls) == 3 or flat[-1] == 0
  assert numbers["zero_variance_groups"] == sum(flat)
  assert numbers["refilled_groups"] == sum(len(c[2]) for c in more)
  asked = first[2] + [i for c in more for i in c[2]]
  assert written(run) == asked and len(set(asked)) == len(asked)


def test_without_refill_flat_groups_are_only_left_out(make):
  run, batches = make(refill_rounds=0, problems_per_step=20)
  with batches:
    kept, numbers = batches.next(1)
  assert len(run.calls) == 1
  assert len(kept) == 2 * 12
  assert numbers["zero_variance_groups"] == 8
  assert numbers["zero_variance_fraction"] == 8 / 20


@pytest.mark.parametrize("staleness", [0, 1])
def test_after_a_failure_the_same_problems_are_asked_again(make, staleness):
  run, batches = make(name="good", max_staleness=staleness)
  with batches:
    expected = [step(run, batches, n)[1] for n in range(1, 5)]
  bad, batches = make(name="bad", max_staleness=staleness)
  with batches:
    numbers = []
    for number in range(1, 5):
      if number == 2:
        bad.fail = 1
      numbers.append(step(bad, batches, number)[1])
  assert len(bad.calls) > len(run.calls)
  assert written(bad) == written(run)
  for a, b in zip(numbers, expected, strict=True):
    assert a["reward_mean"] == b["reward_mean"]


def test_a_checkpoint_holds_no_batch_behind_one_that_failed(make):
  run, batches = make(max_staleness=2)
  with batches:
    batches.next(1)
    run.fail = 1
    batches.sample_ahead(2)
    batches.wait()
    saved = batches.state()
    again = batches.next(2)[1]  # and the run itself goes on in order
  assert saved["ahead"] == []
  whole, batches = make(name="whole", max_staleness=2)
  with batches:
    step(whole, batches, 1)
    assert batches.next(2)[1]["reward_mean"] == again["reward_mean"]
  assert written(run) == written(whole)


@pytest.mark.parametrize("masked", [False, True])
def test_a_teaching_that_was_cut_trains_only_if_wanted(make, masked):
  run, batches = make(
    mask_truncated=masked, refill_rounds=0, problems_per_step=20
  )
  complete = run.episode

  def cut(problem, version):
    episode = complete(problem, version)
    teachings = [
      dataclasses.replace(
        t, said=dataclasses.replace(t.said, finish_reason="length")
      )
      for t in episode.teachings
    ]
    return dataclasses.replace(episode, teachings=tuple(teachings))

  run.episode = cut
  with batches:
    kept, numbers = batches.next(1)
  assert numbers["truncated_fraction"] == 1
  trained = [rollouts_lib.as_sequence(r).loss_mask.sum() for r in kept]
  assert trained == [0 if masked else 2] * len(kept) and kept


def test_a_teaching_that_fits_no_row_is_an_error(make):
  _, batches = make(row_length=3)
  with batches, pytest.raises(RolloutError, match=r"grpo\.row_length=3"):
    batches.next(1)


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("place", ["sampling", "telling"])
def test_a_signal_leaves_what_the_next_start_goes_on_with(
  make, staleness, place, monkeypatch
):
  run, batches = make(name="whole", max_staleness=staleness)
  with batches:
    expected = [step(run, batches, n)[0] for n in range(1, 7)]
  stopped, batches = make(name="stopped", max_staleness=staleness)
  with batches:
    for number in (1, 2):
      step(stopped, batches, number)

    def stop(*_):
      raise Stopped(15)

    if place == "sampling":
      stopped.with_servers = stop
    else:
      monkeypatch.setattr(rollouts_lib.multihost, "call_on_lead", stop)
    with pytest.raises(Stopped):
      batches.next(3)
    saved = json.loads(json.dumps(batches.state()))
  monkeypatch.undo()
  again, batches = make(
    name="stopped", saved=saved, done=2, max_staleness=staleness
  )
  with batches:
    kept = [step(again, batches, n)[0] for n in range(3, 7)]
  assert json.dumps(kept) == json.dumps(expected[2:])
  assert written(again) == written(run)
