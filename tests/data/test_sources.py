"""Each source reads what it should and refuses the rest with file and line."""

import dataclasses
import hashlib
import json

import pytest

from atlas_jax.config import DataConfig, PromptsConfig
from atlas_jax.data import sources
from atlas_jax.data import splits as splits_lib
from atlas_jax.data.problems import DataError, SftExample
from atlas_jax.teaching.prompts import NO_PROBE, fingerprint


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
  refused({"question": "prompt"}, "'prompt' is missing")
  refused({"field": "x"}, "field is unknown")


def teaching(text, status="ok", taught="correct", leaked=False):
  return {
    "text": text,
    "status": status,
    "taught": {"status": taught},
    "leaked": leaked,
  }


def test_episodes_give_the_teachings_that_helped(tmp_path):
  row = {
    "question": "q",
    "probe": "a",
    "teachings": [
      teaching("good"),
      teaching("bad form", status="missing"),
      teaching("wrong", taught="wrong"),
      teaching("leak", leaked=True),
    ],
  }
  path = tmp_path / "grpo.jsonl"
  path.write_text(2 * (json.dumps(row) + "\n"))
  for where in (path, tmp_path):
    config = DataConfig(sft_source="episodes", sft_path=str(where))
    (example,) = splits_lib.load_sft(config)
    assert example.response == "good"
    assert example.fields == {"question": "q", "probe": "a"}
  path.write_text('{"question": "q"}\n')
  with pytest.raises(DataError, match=r"grpo\.jsonl:1"):
    splits_lib.load_sft(config)


def test_of_an_optimisation_only_what_the_kept_prompts_taught(tmp_path):
  kept = PromptsConfig(student_probe="kept {question}")
  other = fingerprint(PromptsConfig(student_probe="other {question}"))

  def line(text, prompts, probe="a"):
    teachings = [teaching(text)]
    row = {"question": "q", "probe": probe, "teachings": teachings}
    return json.dumps(row | {"prompts": prompts}) + "\n"

  folder = tmp_path / "episodes"
  folder.mkdir()
  mine = fingerprint(kept)
  (folder / "train.jsonl").write_text(
    line("one", mine) + line("two", other) + line("one", mine, "b")
  )
  (folder / "validation.jsonl").write_text(
    line("one", mine) + line("three", mine)
  )
  (folder / "test.jsonl").write_text(line("four", mine))
  best = {"stage": "chosen", "prompts": dataclasses.asdict(kept)}
  path = tmp_path / "best_prompts.json"

  def found(where):
    config = DataConfig(sft_source="episodes", sft_path=str(where))
    examples = splits_lib.load_sft(config)
    return [(e.fields["probe"], e.response) for e in examples]

  assert len(found(folder)) == 5  # a training run has no such file beside it
  path.write_text(json.dumps(best))
  assert found(folder) == [("a", "one"), ("b", "one"), ("a", "three")]
  assert found(folder / "validation.jsonl") == [("a", "one"), ("a", "three")]
  with pytest.raises(DataError, match="no examples"):
    found(folder / "test.jsonl")
  path.write_text(json.dumps(best | {"stage": "search"}))
  with pytest.raises(DataError, match="not chosen its prompts yet"):
    found(folder)
  path.write_text("{")
  with pytest.raises(DataError, match=r"best_prompts\.json: not valid JSON"):
    found(folder)


def test_episodes_of_an_older_version_are_read(tmp_path):
  old = {
    "student_baseline": "A {question}",
    "student_diagnostic": "P {question}",
    "teacher_adaptive": "T {question} {approach}",
    "student_with_teaching": "G {question} {teaching}",
  }
  # As it was made of them then: of the texts in their order.
  text = json.dumps(list(old.values()))
  mine = hashlib.sha256(text.encode()).hexdigest()[:12]
  best = {"stage": "chosen", "prompts": old}
  (tmp_path / "best_prompts.json").write_text(json.dumps(best))
  lines = [
    {
      "question": "q",
      "approach": approach,
      "prompts": prompts,
      "teachings": [
        {"text": "t", "status": "ok", "leaked": False, "guided": guided}
      ],
    }
    for approach, prompts, guided in (
      ("a", mine, {"status": "correct"}),
      ("", mine, {"status": "correct"}),
      ("b", mine, {"status": "wrong"}),
      ("c", "another", {"status": "correct"}),
    )
  ]
  (tmp_path / "episodes").mkdir()
  path = tmp_path / "episodes" / "train.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  config = DataConfig(sft_source="episodes", sft_path=str(path))
  examples = splits_lib.load_sft(config)
  assert [(e.template, e.fields["probe"]) for e in examples] == [
    ("teacher", "a"),
    ("teacher", NO_PROBE),
  ]
