"""Each source reads what it should and refuses the rest with file and line."""

import json

import pytest

from atlas_jax.config import DataConfig
from atlas_jax.data import sources
from atlas_jax.data import splits as splits_lib
from atlas_jax.data.problems import DataError, SftExample


def read(tmp_path, text, source="jsonl"):
  path = tmp_path / "data.jsonl"
  path.write_text(text, encoding="utf-8")
  return sources.read(DataConfig(source=source, path=str(path)))


@pytest.mark.parametrize("question", sources.QUESTION_KEYS)
@pytest.mark.parametrize("answer", sources.ANSWER_KEYS)
def test_every_pair_of_aliases_is_read(tmp_path, question, answer):
  (problem,) = read(tmp_path, json.dumps({question: "q?", answer: "a"}))
  assert (problem.question, problem.answer) == ("q?", "a")


def test_an_answer_of_integer_zero_is_an_answer(tmp_path):
  (problem,) = read(tmp_path, '{"question": "3 - 3?", "answer": 0}')
  assert problem.answer == "0"


def test_numbers_keep_the_digits_they_are_written_with(tmp_path):
  (problem,) = read(tmp_path, '{"question": "q", "answer": 0.10}')
  assert problem.answer == "0.10"


def test_other_keys_are_kept_and_blank_lines_skipped(tmp_path):
  text = '\n{"question": "q", "solution": "1", "reasoning_trace": "so"}\n\n'
  (problem,) = read(tmp_path, text)
  assert problem.meta == {"reasoning_trace": "so"}


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ('{"question": "q", ', "not valid JSON"),
    ("[1, 2]", "expected an object"),
    ('{"question": "q"}', "none of the keys ground_truth, answer, solution"),
    ('{"question": "q", "answer": null}', "none of the keys"),
    ('{"question": "q", "answer": "  "}', "not empty"),
    ('{"question": "q", "answer": ["1"]}', "a text or a number"),
    ('{"question": "q", "answer": true}', "a text or a number"),
    ('{"question": "q", "answer": NaN}', "not a JSON value"),
    ('{"answer": "1"}', "none of the keys prompt, problem_text"),
    (
      '{"question": "q", "answer": "1", "solution": "2"}',
      "answer and solution are names of the same thing",
    ),
  ],
)
def test_a_bad_line_names_file_and_line(tmp_path, line, message):
  good = '{"question": "good", "answer": "1"}\n'
  with pytest.raises(DataError, match=message) as error:
    read(tmp_path, good + line + "\n")
  assert f"{tmp_path}/data.jsonl:2" in str(error.value)


def test_two_aliases_that_agree_are_fine(tmp_path):
  line = '{"question": "q", "prompt": "q", "answer": 1, "solution": "1"}'
  (problem,) = read(tmp_path, line)
  assert problem.answer == "1"


def test_missing_and_empty_files(tmp_path):
  missing = DataConfig(source="jsonl", path=str(tmp_path / "no.jsonl"))
  with pytest.raises(DataError, match="No such file"):
    sources.read(missing)
  with pytest.raises(DataError, match="no problems"):
    read(tmp_path, "\n")
  with pytest.raises(DataError, match=r"config\.data\.path is needed"):
    sources.read(DataConfig(source="jsonl"))


def test_unknown_source_lists_the_valid_ones():
  with pytest.raises(DataError, match="jsonl, arc_rl, gsm8k, tfds"):
    splits_lib.load(DataConfig(source="gsm9k"))
  with pytest.raises(DataError, match="teachable_sft, teachable_student"):
    splits_lib.load_sft(DataConfig(sft_source="x"))


def test_parameters_of_a_file_source_are_refused(tmp_path):
  config = DataConfig(source="jsonl", path="x", params={"size": 3})
  with pytest.raises(DataError, match="size is unknown"):
    sources.read(config)


@pytest.mark.parametrize(
  ("keys", "valid"),
  [
    ({"path": "x"}, "hf, jsonl, arc_rl, gsm8k"),
    ({"test_path": "x"}, "hf, jsonl, arc_rl, gsm8k"),
    ({"source": "tfds", "validation_path": "x"}, "hf, jsonl, arc_rl, gsm8k"),
    ({"sft_path": "x"}, "arc_sft, episodes"),
  ],
)
def test_a_path_that_a_source_does_not_read_is_refused(keys, valid):
  names = dict.fromkeys(("name", "split", "question", "answer"), "x")
  config = DataConfig(
    sft_source="teachable_sft", params=names if "source" in keys else {}, **keys
  )
  with pytest.raises(DataError) as error:
    splits_lib.load(config)
    splits_lib.load_sft(config)
  assert str(error.value).endswith(f"sources with a path: {valid}")


def test_a_split_without_a_problem_names_its_path(tmp_path):
  (tmp_path / "a").write_text('{"question": "q", "answer": "1"}\n')
  (tmp_path / "b").write_text("\n")
  config = DataConfig(
    source="jsonl", path=f"{tmp_path}/a", test_path=f"{tmp_path}/b"
  )
  with pytest.raises(DataError, match=rf"no problems found in {tmp_path}/b$"):
    splits_lib.load(config)


def test_gsm8k_answer_stands_after_the_hashes(tmp_path):
  row = {"question": "q", "answer": "3*4=<<3*4=12>>12\n#### 70,000"}
  (problem,) = read(tmp_path, json.dumps(row), source="gsm8k")
  assert problem.answer == "70,000"
  with pytest.raises(DataError, match=r"data.jsonl:1: 'answer' must end"):
    read(tmp_path, '{"question": "q", "answer": "12"}', source="gsm8k")


def test_arc_files(tmp_path):
  (problem,) = read(
    tmp_path, '{"prompt": "p", "ground_truth": 5}', source="arc_rl"
  )
  assert (problem.question, problem.answer) == ("p", "5")
  path = tmp_path / "sft.jsonl"
  row = {
    "problem_text": "p",
    "student_approach": "I add",
    "teacher_diagnosis": "forgets the carry",
    "teacher_teaching": "carry the one",
  }
  path.write_text(json.dumps(row))
  config = DataConfig(sft_source="arc_sft", sft_path=str(path))
  assert splits_lib.load_sft(config) == [
    SftExample(
      "teacher",
      {"question": "p", "probe": "I add"},
      "forgets the carry\n<teaching>carry the one</teaching>",
    )
  ]
  path.write_text(json.dumps(row | {"teacher_teaching": "a <teaching>b"}))
  with pytest.raises(DataError, match=r"sft\.jsonl:1"):
    splits_lib.load_sft(config)


def test_reasoning_gym_by_name_and_parameters():
  params = {
    "task": "chain_sum",
    "size": 20,
    "params": {"max_terms": 2, "max_digits": 1},
  }
  config = DataConfig(source="reasoning_gym", params=params, seed=5)
  first = sources.read(config)
  assert first == sources.read(config)
  assert len({p.id for p in first}) == len(first) <= 20
  assert all(p.verifier == "reasoning_gym" for p in first)
  other = sources.read(
    DataConfig(source="reasoning_gym", params=params, seed=6)
  )
  assert [p.id for p in other] != [p.id for p in first]


@pytest.mark.parametrize(
  ("params", "message"),
  [
    ({"task": "no_such_task", "size": 2}, "no_such_task"),
    ({"size": 2}, "task is missing"),
    ({"task": ["chain_sum"], "size": 2}, "task must be text"),
    ({"task": "chain_sum", "size": 2, "terms": 3}, "terms is unknown"),
    ({"task": "chain_sum", "size": 2, "params": {"terms": 3}}, "terms"),
    ({"task": "prime_factorization", "size": 2}, "relied on"),
    (
      {"task": "no_such_task", "size": 2},
      "list it in .*; valid: ab",
    ),
    ({"task": "composite", "size": 2}, "whatever family an entry names"),
    ({"task": "__import__('os')", "size": 2}, "its scorer was not read"),
  ],
)
def test_reasoning_gym_refuses(params, message):
  with pytest.raises(DataError, match=message):
    sources.read(DataConfig(source="reasoning_gym", params=params))


def test_another_release_of_reasoning_gym_is_refused(monkeypatch):
  monkeypatch.setattr("importlib.metadata.version", lambda _: "0.1.26")
  params = {"task": "chain_sum", "size": 2}
  with pytest.raises(DataError, match=r"0\.1\.26 is installed") as e:
    sources.read(DataConfig(source="reasoning_gym", params=params))
  assert "families.py" in str(e.value) and "\n" not in str(e.value)


@pytest.fixture
def prepared_tfds(tmp_path):
  import numpy as np
  import tensorflow_datasets as tfds

  class TinySums(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            "sum": tfds.features.Text(),
            "result": tfds.features.Scalar(dtype=np.int64),
          }
        ),
      )

    def _split_generators(self, dl_manager):
      return {"train": self._rows(0, 5), "held": self._rows(5, 8)}

    def _generate_examples(self):
      raise NotImplementedError

    def _rows(self, start, end):
      for i in range(start, end):
        yield i, {"sum": f"{i} + 1?", "result": i + 1}

  builder = TinySums(data_dir=str(tmp_path), file_format="array_record")
  builder.download_and_prepare()
  return str(tmp_path)


def test_tensorflow_datasets_without_tensorflow(prepared_tfds):
  params = {
    "name": "tiny_sums",
    "split": "train",
    "question": "sum",
    "answer": "result",
    "data_dir": prepared_tfds,
    "test_split": "held",
  }
  splits = splits_lib.load(
    DataConfig(source="tfds", params=params, split_fractions=(1.0, 0.0, 0.0))
  )
  assert {(p.question, p.answer) for p in splits.train} == {
    (f"{i} + 1?", str(i + 1)) for i in range(5)
  }
  assert sorted(p.answer for p in splits.test) == ["6", "7", "8"]

  def refused(changes, message):
    with pytest.raises(DataError, match=message):
      sources.read(DataConfig(source="tfds", params=params | changes))

  refused({"split": "nope"}, "nope")
  refused({"name": "no_such_set"}, "no_such_set")
  refused({"question": "prompt"}, "none of the keys prompt has a value")
  refused({"field": "x"}, "field is unknown")


def test_a_parameter_that_is_none_is_one_that_is_not_given():
  texts = {"question": 1, "answer": 2, "name": 3, "split": None}
  names = ("name", "split", "answer", "question")
  source = sources.Source(lambda params, seed: [params], optional=names)
  config = DataConfig(source="x", params={"name": None, "split": "a"})
  assert sources.read_named({"x": source}, config) == [{"split": "a"}]
  with pytest.raises(DataError) as error:
    sources.read_named({"x": source}, DataConfig(source="x", params=texts))
  assert str(error.value).startswith(
    "config.data.params: question must be text; answer must be text; name must"
  )
