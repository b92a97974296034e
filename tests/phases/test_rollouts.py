"""Batches in order, ahead of time, filled up and resumed, without servers."""

import dataclasses
import json

import pytest

from atlas_jax.phases import rollouts
from atlas_jax.phases.fitting import TooLong
from atlas_jax.stopping import Stopped
from atlas_jax.teaching.answers import AnswerChecker
from tests.phases.small_grpo import FLAT, PROBLEMS, World


@pytest.fixture(scope="module")
def checker():
  with AnswerChecker() as checker:
    yield checker


@pytest.fixture
def go(monkeypatch, tmp_path, checker):
  """(options of a World) -> the World after all of its steps."""

  def train(name="run", prepare=lambda world: None, **options):
    world = World(tmp_path / name, **options)
    world.entry.episodes.parent.mkdir(parents=True, exist_ok=True)
    prepare(world)
    return world.train(monkeypatch, checker)

  return train


def versions(world, step):
  return {r["version"] for r in world.kept.get(step, [])}


def test_on_policy_batches_are_sampled_with_the_newest_weights(go):
  world = go(refill_rounds=0)
  for step in range(1, 7):
    assert versions(world, step) <= {step - 1}
    assert world.numbers[step]["staleness_mean"] == 0
  assert sum(len(world.kept[n]) for n in world.kept) > 0
  # No problem comes twice in a pass, none is left out.
  assert len(set(world.written())) == 18


@pytest.mark.parametrize("staleness", [1, 2])
def test_ahead_a_batch_is_as_old_as_allowed(go, staleness):
  world = go(max_staleness=staleness, refill_rounds=0)
  ages = set()
  for step, numbers in world.numbers.items():
    if numbers["zero_variance_groups"] < 3:
      expected = min(step - 1, staleness)
      assert numbers["staleness_mean"] == expected
      ages.add(expected)
    assert numbers["stale_dropped"] == 0
  assert staleness in ages
  # Nothing is sampled beyond the last step.
  assert [call[0] for call in world.calls] == [1, 2, 3, 4, 5, 6]


def test_rollouts_that_are_too_old_are_dropped_and_counted(go):
  def behind(world):
    world.roles = lambda: (world.version - 1, None)  # it missed an update

  world = go(refill_rounds=0, steps=1, prepare=behind)
  numbers = world.numbers[1]
  trainable = 2 * (3 - numbers["zero_variance_groups"])
  assert world.kept == {}
  assert numbers["stale_dropped"] == trainable > 0
  assert numbers["staleness_mean"] == 1


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_restored_phase_goes_on_with_the_same_batches(go, staleness):
  options = {"max_staleness": staleness, "checkpoint_every": 3}
  whole = go("whole", **options)
  saved = whole.saves[3]
  assert len(saved["ahead"]) == staleness
  again = go("restored", saved=saved, done=3, **options)
  assert {*again.kept} == {step for step in whole.kept if step > 3} != set()
  for step, kept in again.kept.items():
    assert json.dumps(kept) == json.dumps(whole.kept[step])
  assert again.written() == whole.written()[-len(again.written()) :]


def test_flat_groups_are_replaced_by_the_next_problems(go):
  world = go(refill_rounds=2, steps=1)
  numbers, (first, *more) = world.numbers[1], world.calls
  flat = [sum(i in FLAT for i in ids) for _, _, ids in world.calls]
  for call, wanted in zip(more, flat, strict=False):
    assert len(call[2]) == wanted
  assert [c[1] for c in world.calls] == list(range(len(world.calls)))
  assert len(world.calls) == 3 or flat[-1] == 0
  assert numbers["zero_variance_groups"] == sum(flat)
  assert numbers["refilled_groups"] == sum(len(c[2]) for c in more)
  asked = first[2] + [i for c in more for i in c[2]]
  assert world.written() == asked and len(set(asked)) == len(asked)


def test_without_refill_flat_groups_are_only_left_out(go):
  world = go(refill_rounds=0, problems_per_step=20, steps=1)
  assert len(world.calls) == 1
  assert len(world.kept[1]) == 2 * 12
  assert world.numbers[1]["zero_variance_groups"] == 8
  assert world.numbers[1]["zero_variance_fraction"] == 8 / 20


@pytest.mark.parametrize("staleness", [0, 1])
def test_after_a_failure_the_same_problems_are_asked_again(go, staleness):
  good = go("good", max_staleness=staleness)

  def fails_once(world):
    world.at["sampling", 2] = lambda: setattr(world, "fail", 1)

  bad = go("bad", max_staleness=staleness, prepare=fails_once)
  assert len(bad.calls) > len(good.calls)
  assert bad.written() == good.written()
  for step, numbers in bad.numbers.items():
    assert numbers["reward_mean"] == good.numbers[step]["reward_mean"]


@pytest.mark.parametrize("masked", [False, True])
def test_a_teaching_that_was_cut_trains_only_if_wanted(go, masked):
  def cut_all(world):
    complete = world.episode

    def cut(problem, version):
      episode = complete(problem, version)
      teachings = [
        dataclasses.replace(
          t, said=dataclasses.replace(t.said, finish_reason="length")
        )
        for t in episode.teachings
      ]
      return dataclasses.replace(episode, teachings=tuple(teachings))

    world.episode = cut

  world = go(
    mask_truncated=masked,
    **{"refill_rounds": 0, "problems_per_step": 20, "steps": 1},
    prepare=cut_all,
  )
  assert world.numbers[1]["truncated_fraction"] == 1
  # A step without anything trained is no update.
  trained = [
    rollouts.as_sequence(r).loss_mask.sum() for r in world.kept.get(1, [])
  ]
  assert trained == ([] if masked else [2] * 24)


def test_a_teaching_that_fits_no_row_is_an_error(go):
  with pytest.raises(TooLong, match=r"grpo\.row_length=3"):
    go(row_length=3)


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("place", ["sampling", "recording"])
def test_a_signal_leaves_what_the_next_start_goes_on_with(go, staleness, place):
  whole = go("whole", max_staleness=staleness)
  worlds = []

  def stop():
    raise Stopped(15)

  def stops(world):
    worlds.append(world)
    world.at[place, 3] = stop

  with pytest.raises(Stopped):
    go("stopped", max_staleness=staleness, prepare=stops)
  (stopped,) = worlds
  assert stopped.log[-1] == ("saved", 2)
  again = go("stopped", saved=stopped.saves[2], done=2, max_staleness=staleness)
  assert {*again.kept} == {step for step in whole.kept if step > 2} != set()
  for step, kept in again.kept.items():
    assert json.dumps(kept) == json.dumps(whole.kept[step])
  assert again.written() == whole.written()
  assert len(PROBLEMS) > 18
