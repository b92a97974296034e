"""config.data.source and config.data.verifier as functions of the user's."""

import pytest

from atlas_jax.config import ConfigError, DataConfig
from atlas_jax.data import sources, splits
from atlas_jax.data.problems import DataError, make_problem

TEXT = """
from atlas_jax.data.problems import make_problem


def load(config):
  begin = 0 if config.path is None else int(config.path)
  for i in range(begin, begin + config.params["count"]):
    yield {"prompt": f"{i}+1", "answer": i + 1, "level": 2.50}


def problems(config):
  return [make_problem("1+1", "2", meta={"level": 1}), {"input": "q"}]


def one(config):
  return [make_problem("1+1", "2", meta={"level": 1})]


def raises(config):
  return [{"question": "q", "answer": 1 / len(config.params)}]


def given(config):
  return config.params["rows"]


def nothing(config):
  return None


def same(question, gold, response):
  return gold == response
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(TEXT)
  return str(path)


def test_rows_are_as_the_lines_of_a_file(file):
  config = DataConfig(source=f"{file}:load", params={"count": 3})
  first, *_ = problems = sources.read(config)
  assert [p.answer for p in problems] == ["1", "2", "3"]
  assert (first.question, first.meta) == ("0+1", {"level": "2.5"})
  (problem,) = sources.read(DataConfig(source=f"{file}:one"))
  assert problem.meta == {"level": "1"}


def test_splits_of_their_own(file):
  found = splits.load(
    DataConfig(
      source=f"{file}:load",
      params={"count": 4},
      test_path="100",
      validation_path="200",
      verifier=f"{file}:same",
    )
  )
  assert [p.question for p in found.test] == [f"{100 + i}+1" for i in range(4)]
  assert len(found.train) == len(found.validation) == 4
  every = found.train + found.validation + found.test
  assert {p.verifier for p in every} == {f"{file}:same"}


@pytest.mark.parametrize(
  "name, params, says",
  [
    ("problems", {}, "problems[1]: none of the keys ground_truth, answer"),
    ("raises", {}, "ZeroDivisionError: division by zero ({file}:20)"),
    ("nothing", {}, "TypeError: 'NoneType' object is not iterable ({file}:27)"),
    ("given", {"rows": []}, "no problems found"),
    (
      "given",
      {"rows": [make_problem("q", "1", verifier="mine")]},
      "given[0] names the verifier 'mine'; one of your own stands in",
    ),
    (
      "given",
      {"rows": [make_problem("q", "1", meta={"f": print})]},
      "given[0]: Object of type builtin_function_or_method",
    ),
    ("given", {"rows": ["q"]}, "given[0]: expected an object such as"),
    ("given", {"rows": [{"question": "q", "answer": {1}}]}, "given[0]: Object"),
    (
      "given",
      {"rows": [{"question": "q", "answer": ""}]},
      "given[0]: 'answer'",
    ),
    (
      "given",
      {"rows": [{"question": "\ud800", "answer": "1"}]},
      "given[0]: not valid JSON: \\u0000 or half a surrogate pair",
    ),
    (
      "given",
      {"rows": [{"question": "q", "answer": float("nan")}]},
      "given[0]: not valid JSON: NaN is not a JSON value",
    ),
  ],
)
def test_what_cannot_be_used_is_one_line(file, name, params, says):
  with pytest.raises(DataError) as caught:
    sources.read(DataConfig(source=f"{file}:{name}", params=params))
  text = str(caught.value)
  assert says.format(file=file) in text and "\n" not in text


@pytest.mark.parametrize(
  "keys, says",
  [
    ({"source": "{file}:none"}, "config.data.source='{file}:none': "),
    ({"verifier": "{file}:none"}, "config.data.verifier='{file}:none': "),
    ({"verifier": "{file}:one"}, "is called with 3 arguments: too many"),
    ({"verifier": "no.such:f"}, "no.such does not import"),
  ],
)
def test_a_name_that_is_wrong_stops_the_run_at_once(file, keys, says):
  keys = {k: v.format(file=file) for k, v in keys.items()}
  with pytest.raises(ConfigError) as caught:
    splits.load(DataConfig(**keys))
  assert says.format(file=file) in str(caught.value)
