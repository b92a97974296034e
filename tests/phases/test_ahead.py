"""A queue of values that are made before they are used."""

import threading

import pytest

from atlas_jax.phases.ahead import AheadQueue


class Made:
  """Values 10 apart, one a step; `bad` steps fail once each."""

  def __init__(self, *bad):
    self.bad, self.calls, self.go = {*bad}, [], threading.Event()
    self.go.set()

  def __call__(self, position, step, *args):
    self.go.wait(10)
    self.calls.append((position["at"], step, *args))
    if step in self.bad:
      self.bad.remove(step)
      raise OSError(f"step {step}")
    return {"step": step, "stream": {"at": position["at"] + 10}}


def queue(made, saved=None):
  return AheadQueue(made, {"at": 0}, saved)


def test_each_value_begins_where_the_one_before_it_ended():
  made = Made()
  values = queue(made)
  assert values.first(1, "a")["step"] == 1
  values.pop()
  values.begin(range(2, 4), "b")
  values.begin(range(2, 5), "c")  # 2 and 3 are begun already
  for step in (2, 3, 4):
    assert values.first(step, "d")["step"] == step
    values.pop()
  assert values.first(5, "d")["step"] == 5
  expected = [(0, 1, "a"), (10, 2, "b"), (20, 3, "b"), (30, 4, "c")]
  assert made.calls == [*expected, (40, 5, "d")]
  values.close()


def test_what_is_begun_does_not_wait_and_can_be_waited_for():
  made = Made()
  made.go.clear()
  values = queue(made)
  values.begin(range(1, 3))
  assert made.calls == []
  made.go.set()
  values.wait()
  assert [step for _, step in made.calls] == [1, 2]
  values.close()


def test_a_failure_drops_what_lies_behind_it_and_all_is_made_again():
  made = Made(2)
  values = queue(made)
  values.begin(range(1, 4))
  values.first(1)
  values.pop()
  assert values.state() == {"stream": {"at": 10}, "ahead": []}
  with pytest.raises(OSError, match="step 2"):
    values.first(2)
  assert values.first(2)["step"] == 2
  values.pop()
  assert values.first(3)["stream"] == {"at": 30}
  assert [step for _, step in made.calls] == [1, 2, 2, 3]
  values.close()


def test_a_saved_queue_goes_on_with_the_same_values():
  values = queue(Made())
  values.begin(range(1, 4))
  values.first(1)
  values.pop()
  saved = values.state()
  assert [v["step"] for v in saved["ahead"]] == [2, 3]
  assert saved["stream"] == {"at": 30}
  values.close()
  made = Made()
  again = queue(made, saved)
  again.begin(range(2, 5))
  for step in (2, 3, 4):
    assert again.first(step)["step"] == step
    again.pop()
  assert made.calls == [(30, 4)]
  again.close()
