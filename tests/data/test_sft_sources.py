"""Episodes of earlier runs as SFT examples."""

import dataclasses
import json

import pytest

from atlas_jax.config import DataConfig, PromptsConfig
from atlas_jax.data import splits as splits_lib
from atlas_jax.data.problems import DataError
from atlas_jax.teaching.prompts import PromptError, fingerprint


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
  with pytest.raises(PromptError, match=r"best_prompts\.json: not valid JSON"):
    found(folder)


def test_episodes_of_an_older_version_are_refused_with_the_new_names(tmp_path):
  path = tmp_path / "train.jsonl"
  old = {"question": "q", "approach": "a", "teachings": [{"guided": {}}]}
  path.write_text(json.dumps(old) + "\n")
  config = DataConfig(sft_source="episodes", sft_path=str(path))
  with pytest.raises(
    DataError, match=r"train\.jsonl:1: .*approach is probe now"
  ):
    splits_lib.load_sft(config)


@pytest.mark.parametrize(
  "changes",
  [{"question": None}, {"probe": None}, {"teachings": "abc"}, {"text": None}],
)
def test_a_line_whose_texts_are_none(tmp_path, changes):
  texts = {"question": "q", "probe": "p", "text": "t"} | changes
  row = {"teachings": [teaching(texts.pop("text"))]} | texts
  path = tmp_path / "e.jsonl"
  path.write_text(json.dumps(row))
  config = DataConfig(sft_source="episodes", sft_path=str(path))
  with pytest.raises(DataError, match=r"e\.jsonl:1: not a line of an episodes"):
    splits_lib.load_sft(config)
