"""Splits by hash, overlap, order and position of streams."""

import dataclasses
import json

import pytest

from atlas_jax.config import ConfigError, DataConfig, resolve
from atlas_jax.data import problems
from atlas_jax.data import splits as splits_lib
from atlas_jax.data.problems import DataError, ProblemStream


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def rows(numbers):
  return [{"question": f"What is {i} + 1?", "answer": i + 1} for i in numbers]


def config_of(path, **changes):
  return DataConfig(source="jsonl", path=str(path), **changes)


def test_the_shares_of_the_splits_are_those_of_the_fractions(tmp_path):
  path = write(tmp_path / "all.jsonl", rows(range(2000)))
  splits = splits_lib.load(config_of(path))
  sizes = [len(splits.train), len(splits.validation), len(splits.test)]
  assert sum(sizes) == 2000
  # Binomial: three standard deviations are 54 and 40.
  assert abs(sizes[0] - 1600) < 54
  assert abs(sizes[1] - 200) < 40
  assert abs(sizes[2] - 200) < 40


def test_a_question_keeps_its_split_when_others_come_and_go(tmp_path):
  few = splits_lib.load(config_of(write(tmp_path / "a", rows(range(50)))))
  many = splits_lib.load(
    config_of(write(tmp_path / "b", rows(reversed(range(500)))))
  )
  test_ids = {p.id for p in many.test}
  assert few.test
  assert all(p.id in test_ids for p in few.test)
  spaced = "  What  is 3\n+ 1?"
  fractions = (0.4, 0.3, 0.3)
  assert problems.split_of(spaced, fractions) == problems.split_of(
    "What is 3 + 1?", fractions
  )


def test_own_files_take_their_split_and_the_rest_is_shared(tmp_path):
  main = write(tmp_path / "main", rows(range(200)))
  test = write(tmp_path / "test", rows(range(200, 230)))
  splits = splits_lib.load(config_of(main, test_path=test))
  assert len(splits.test) == 30
  assert len(splits.train) + len(splits.validation) == 200
  assert 5 < len(splits.validation) < 45  # 1 of 9 parts
  both = config_of(main, test_path=test, validation_path=test)
  with pytest.raises(DataError, match="both the validation and the test"):
    splits_lib.load(both)


def test_overlap_names_the_question(tmp_path):
  main = write(tmp_path / "main", rows(range(20)))
  test = write(tmp_path / "test", rows([7]))
  with pytest.raises(DataError, match=r"What is 7 \+ 1\?"):
    splits_lib.load(config_of(main, test_path=test))


def test_repeats_are_dropped_and_contradictions_refused(tmp_path):
  once = write(tmp_path / "a", rows([1, 2, 1]))
  splits = splits_lib.load(config_of(once, split_fractions=(1.0, 0.0, 0.0)))
  assert [p.answer for p in splits.train] == ["2", "3"]
  twice = write(
    tmp_path / "b", [*rows([1]), {"question": "What is 1 + 1?", "answer": 3}]
  )
  with pytest.raises(DataError, match=r"b:2: .* '2' \(.*b:1\) and '3'"):
    splits_lib.load(config_of(twice))


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.9, 0.2, 0.1), (2, -1, 0)])
def test_fractions_that_are_no_shares_are_refused(fractions):
  tree = {"data": {"split_fractions": fractions}}
  with pytest.raises(ConfigError, match="sum to 1"):
    resolve(tree)


def test_sft_leaves_out_held_out_questions(tmp_path):
  path = write(
    tmp_path / "sft.jsonl",
    [
      {
        "problem_text": f"q{i}",
        "student_approach": "a",
        "teacher_diagnosis": "d",
        "teacher_teaching": "t",
      }
      for i in range(3)
    ],
  )
  config = DataConfig(sft_source="arc_sft", sft_path=path)
  held_out = [problems.make_problem(" q1", "1")]
  kept = splits_lib.load_sft(config, held_out)
  assert [e.fields["question"] for e in kept] == ["q0", "q2"]
  everything = [problems.make_problem(f"q{i}", "1") for i in range(3)]
  with pytest.raises(DataError, match="no examples"):
    splits_lib.load_sft(config, everything)


def test_order_is_a_function_of_seed_and_epoch():
  first = ProblemStream(range(50), seed=3)
  again = ProblemStream(range(50), seed=3)
  other = ProblemStream(range(50), seed=4)
  epoch0, epoch1 = first.take(50), first.take(50)
  assert sorted(epoch0) == sorted(epoch1) == list(range(50))
  assert epoch0 != epoch1
  assert again.take(100) == epoch0 + epoch1
  assert other.take(50) != epoch0


def test_position_restores_exactly_across_an_epoch():
  stream = ProblemStream(range(7), seed=0)
  stream.take(12)
  state = json.loads(json.dumps(stream.state()))
  assert state == {"epoch": 1, "offset": 5, "size": 7}
  expected = stream.take(9)
  resumed = ProblemStream(range(7), seed=0)
  resumed.restore(state)
  assert resumed.take(9) == expected


def test_a_position_of_other_data_is_refused():
  stream = ProblemStream(range(7), seed=0)
  with pytest.raises(DataError, match="made with 8 items"):
    stream.restore({"epoch": 0, "offset": 1, "size": 8})


def test_an_empty_split_is_one_clear_error():
  with pytest.raises(DataError, match="empty"):
    ProblemStream([], seed=0)


def test_problems_are_immutable():
  problem = problems.make_problem("q", "1")
  with pytest.raises(dataclasses.FrozenInstanceError):
    problem.answer = "2"
